"""What an installation without extras has is enough to serve, and no more than that is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import venv
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tests.server import Server

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = {canonicalize_name(Requirement(each).name) for each in PROJECT["dependencies"]}

# Modules that are imported only where an extra is asked for, and the packages of theirs that the extra brings.
OF_EXTRAS = {
    "service/web/otel.py": {"opentelemetry-exporter-otlp-proto-http", "opentelemetry-sdk"},
    "service/models/sources/onnx_graphs.py": {"onnx"},
    "service/models/sources/onnx_operators.py": {"onnx2torch"},
}
# Modules that run where a tool is, with the tool's own package.
OF_TOOLS = {
    "service/client/cvat.py": {"cvat-sdk"},
    "service/client/fiftyone.py": {"fiftyone"},
}
# Packages whose modules are imported, and those that need exactly them and stand among our own dependencies.
BROUGHT_BY = {"starlette": "fastapi", "pydantic-core": "pydantic"}
# Packages that nothing of ours imports, and what they are there for.
NEVER_IMPORTED = {
    "fastapi-offline": "its files are served: /docs without the internet",
    "uvloop": "uvicorn takes it for its event loop",
}


def imported_by(file: Path) -> Iterator[str]:
    """Names of the modules that a file may import at run time, wherever in it."""
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo.extend(node.orelse)
        else:
            todo.extend(ast.iter_child_nodes(node))


@cache
def packages_of(module: str) -> set[str]:
    """Canonical names of what brings a module, which is taken for its name where it is not installed.

    Of namespaces, such as ``opentelemetry``, it is what has its file.
    """
    top, path = module.partition(".")[0], module.replace(".", "/")
    candidates = _distributions().get(top, [top])
    if len(candidates) > 1:
        candidates = [name for name in candidates if _has(metadata.distribution(name), path)]
    return {canonicalize_name(name) for name in candidates}


@cache
def _distributions() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _has(installed: metadata.Distribution, path: str) -> bool:
    return any(str(file) in {f"{path}.py", f"{path}/__init__.py"} for file in installed.files or ())


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Packages of others by the file of ours that imports them."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "service").rglob("*.py"):
        modules = {name for name in imported_by(file) if name.partition(".")[0] not in sys.stdlib_module_names}
        packages = {package for name in modules if not name.startswith("service") for package in packages_of(name)}
        found[file.relative_to(ROOT).as_posix()] = packages
    return found


def test_what_is_imported_is_a_dependency(imported: dict[str, set[str]]) -> None:
    allowed = NEEDED | {package for package, by in BROUGHT_BY.items() if by in NEEDED}
    beyond = {file: packages - allowed for file, packages in imported.items() if packages - allowed}
    assert beyond == OF_EXTRAS | OF_TOOLS


def test_what_else_is_imported_is_in_an_extra() -> None:
    extras = {name: each for name, each in PROJECT["optional-dependencies"].items() if name not in {"dev", "parity"}}
    offered = {canonicalize_name(Requirement(each).name) for extra in extras.values() for each in extra}
    assert {package for packages in OF_EXTRAS.values() for package in packages} <= offered


def test_a_dependency_is_imported_or_has_its_reason(imported: dict[str, set[str]]) -> None:
    assert NEEDED - set[str]().union(*imported.values()) == NEVER_IMPORTED.keys()


def closure(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """What is installed for requirements, and for those of theirs, by name."""
    found: dict[str, metadata.Distribution] = {}
    todo = [Requirement(each) for each in requirements]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found[name] = metadata.distribution(name)
        todo += [Requirement(each) for each in found[name].requires or []]
    return found


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the dependencies, theirs, and nothing else."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for installed in closure(PROJECT["dependencies"]).values():
        for file in installed.files or ():
            shared = len(_distributions().get(file.parts[0], ())) > 1
            part = Path(*file.parts[: 2 if shared else 1])
            if part.parts[0] not in {"..", "__pycache__"} and not (packages / part).exists():
                (packages / part).parent.mkdir(exist_ok=True)
                (packages / part).symlink_to(str(installed.locate_file(part)))
    return folder / "bin" / "python"


def test_this_environment_has_nothing_else(python: Path) -> None:
    names = ["pytest", "hypothesis", "httpx", "torch", "pillow_heif", "opentelemetry.sdk"]
    script = f"import importlib.util as found; print(*(n for n in {names} if found.find_spec(n)))"
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["httpx", "torch"]


@pytest.fixture(scope="module")
def served(python: Path) -> Iterator[Server]:
    with running_server("--device", "cpu", "--log-level", "warning", python=python) as server:
        yield server


def test_the_embedded_models_are_served_without_any_extra(served: Server) -> None:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert client.get("/readyz").json()["status"] == "ready"
        for path in ("/", "/docs", "/embed", "/openapi.json", "/metrics", "/static/page/main.js"):
            assert client.get(path, follow_redirects=True).status_code == 200, path
        star = (ROOT / "service" / "demo" / "samples" / "03-star.png").read_bytes()
        asked = {"output": ["heatmap", "overlay", "mask", "map", "regions"], "method": ["gradcam", "eigencam"]}
        answer = client.post("/api/v1/explain", params=asked, files={"image": star})
        assert answer.json()["results"][0]["predictions"][0]["label"] == "star"
