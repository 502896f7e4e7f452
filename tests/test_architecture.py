"""The rules that hold the layout: who may import whom, and what an import may cost."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Modules of the engine that its two sides have in common.
_BOTH = {"messages", "pixel_room"}


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter in the repository root."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def loaded_by(module: str) -> set[str]:
    """The top-level packages that a fresh interpreter has loaded after importing ``module``."""
    script = f"import json, sys, {module}; print(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


class TestContracts:
    def test_imports_keep_to_the_contracts_in_pyproject(self) -> None:
        done = python(
            "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache", "--no-logo"
        )

        assert done.returncode == 0, f"\n{done.stdout}{done.stderr}"
        assert ", 0 broken." in done.stdout

    def test_every_part_of_the_package_has_its_layer(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        (layers,) = [each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
        named = {name.strip() for line in layers["layers"] for name in line.split("|")}
        there = {
            path.stem
            for path in (ROOT / "service").iterdir()
            if path.suffix == ".py" or (path / "__init__.py").is_file()
        }

        assert there - {"__init__"} == named


class TestLength:
    def test_no_file_of_the_service_is_too_long_to_read(self) -> None:
        files = [file for file in (ROOT / "service").rglob("*") if file.suffix in {".py", ".js", ".css"}]
        long = {file.name: count for file in files if (count := len(file.read_text("utf-8").splitlines())) > 600}
        assert len(files) > 100
        assert long == {}


class TestProcesses:
    """The folder says in which process a module of the engine runs, and so does its first docstring."""

    MODULES = sorted((ROOT / "service" / "engine").rglob("*.py"))

    @pytest.mark.parametrize("module", [each for each in MODULES if each.stat().st_size], ids=lambda each: each.stem)
    def test_every_module_says_where_it_runs(self, module: Path) -> None:
        if module.name == "__init__.py":
            return
        docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
        where = re.search(r"^Runs in (.*)\.$", docstring, re.MULTILINE)
        assert where, f"{module} does not say in which process it runs"
        in_worker = where[1] in {
            "the worker process",
            "whatever process calls it",
            "the worker process, or in whatever process calls it",
        }
        assert in_worker == (module.parent.name == "workers")
        assert in_worker or where[1] == ("both processes" if module.stem in _BOTH else "the front process")

    def test_the_contracts_of_the_two_sides_name_every_module(self) -> None:
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        contracts = {each["name"]: each for each in settings["tool"]["importlinter"]["contracts"]}
        front = contracts["The front's engine does not reach into the workers"]["source_modules"]
        barred = contracts["Workers know the port and the messages, and nothing else of the front"]["forbidden_modules"]
        there = {f"service.engine.{each.stem}" for each in (ROOT / "service" / "engine").glob("*.py")}
        there.discard("service.engine.__init__")
        assert set(front) == there
        assert set(barred) == there - {"service.engine.worker", *(f"service.engine.{stem}" for stem in _BOTH)}

    def test_the_front_speaks_to_the_engine_through_its_facade(self) -> None:
        files = [*(ROOT / "service" / "web").glob("*.py"), *(ROOT / "service" / "protocols").rglob("*.py")]
        behind = re.compile(r"\b(explainer|engine)\.(pool|admission|_\w+)\b")
        for file in [*files, *(ROOT / "service" / "commands").glob("*.py")]:
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "import " not in line]
            assert not [line for line in lines if behind.search(line)], file


# Parts that any protocol stands on, so none of them may speak of a route.
NEUTRAL = ("cam", "engine", "imaging", "models", "errors.py", "options.py", "vocabulary.py")
ROUTE = re.compile(r"/api/|\b(?:GET|POST|PUT|DELETE|PATCH) /|/v[12]\b")


def strings_of(file: Path) -> list[tuple[int, str]]:
    """Line and text of every string in a module, parts of f-strings included and docstrings left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in docstrings)
    return [(node.lineno, node.value) for node in constants if isinstance(node.value, str)]


class TestRoutes:
    def test_nothing_below_the_protocols_names_one(self) -> None:
        parts = [ROOT / "service" / name for name in NEUTRAL]
        files = [file for part in parts for file in ([part] if part.suffix else part.rglob("*.py"))]
        named = [
            f"{file.relative_to(ROOT)}:{line}: {text}"
            for file in files
            for line, text in strings_of(file)
            if ROUTE.search(text)
        ]

        assert len(files) > 50
        assert named == []

    def test_the_search_sees_them_where_they_may_be(self) -> None:
        found = [text for _, text in strings_of(ROOT / "service" / "problems.py") if ROUTE.search(text)]

        assert "GET /api/v1/methods lists them." in found
        assert any(text.startswith(", or GET /api/v1/models/") for text in found), "parts of f-strings, too"


class TestImports:
    @pytest.mark.parametrize(
        "module",
        [
            "service",
            "service.client",
            "service.cli",
            "service.settings",
            "service.web.app",
            "service.engine.explainer",
            "service.cam.layers",
            "service.cam.methods",
            "service.models.info",
            "service.models.labels",
        ],
    )
    def test_need_no_torch(self, module: str) -> None:
        assert not loaded_by(module) & {"torch", "torchvision"}

    def test_the_client_needs_httpx_and_pydantic_and_little_else(self) -> None:
        loaded = loaded_by("service.client")

        assert {"httpx", "pydantic"} <= loaded
        assert not loaded & {"numpy", "PIL", "fastapi", "starlette", "uvicorn", "torch", "safetensors", "networkx"}

    def test_the_package_itself_needs_nothing(self) -> None:
        assert not loaded_by("service") & {"pydantic", "httpx", "numpy", "PIL", "fastapi", "torch"}

    def test_the_sdk_of_opentelemetry_is_loaded_only_for_tracing(self) -> None:
        script = (
            "import sys; from service.settings import Settings; from service.web.app import create_app; "
            "create_app(Settings()); print('opentelemetry.sdk' in sys.modules); "
            "create_app(Settings(tracing=True)); print('opentelemetry.sdk' in sys.modules)"
        )

        assert python("-c", script).stdout.split() == ["False", "True"]

    def test_a_picture_is_explained_without_torchs_compiler(self, tmp_path: Path) -> None:
        """Torch and torchvision would import it, a second of every worker's start, where it is easily spared."""
        star, out = "service/demo/samples/03-star.png", str(tmp_path / "out")
        script = (
            "import sys; from service.cli import main; "
            f"main(['explain', {star!r}, '--model', 'shapes', '--out', {out!r}, "
            "'--method', 'gradcam', '--method', 'scorecam', '--method', 'gradcam++', '--device', 'cpu']); "
            "print([name for name in ('torch._dynamo', 'sympy', 'torchvision') if name in sys.modules])"
        )

        assert python("-c", script).stdout.splitlines()[-1] == "['torchvision']"

    def test_the_measure_sees_what_is_loaded(self) -> None:
        assert {"torch", "numpy"} <= loaded_by("service.models.host")
