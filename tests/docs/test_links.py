"""What the documents point at exists: files, pictures, headings, tests, contracts, targets of make."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, anchor, headings, prose

if TYPE_CHECKING:
    from pathlib import Path

_LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
_PLACES = ("service", "tests", "docs", "benchmarks", "scripts", "openapi")


def _id(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
def test_links_lead_somewhere(file: Path) -> None:
    for _, target in _LINK.findall(prose(file)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, fragment = target.partition("#")
        goal = (file.parent / path).resolve() if path else file
        assert goal.exists(), f"{_id(file)}: {target}"
        if fragment:
            assert fragment in [anchor(heading) for heading in headings(goal)], f"{_id(file)}: {target}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
def test_paths_in_backticks_exist(file: Path) -> None:
    for name in re.findall(r"`((?:\w+/)+[\w./]*)`", prose(file)):
        if name.split("/")[0] in _PLACES:
            assert (ROOT / name).exists(), f"{_id(file)}: {name}"


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
def test_named_tests_exist(file: Path) -> None:
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", prose(file)):
        assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), (
            f"{_id(file)}: {path}::{name}"
        )


def test_named_contracts_are_all_contracts() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {contract["name"] for contract in settings["tool"]["importlinter"]["contracts"]}
    assert set(re.findall(r'contract "([^"]+)"', prose(ROOT / "ARCHITECTURE.md"))) == contracts


def test_layers_are_those_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers"]
    assert "```text\n" + "\n".join(layers["layers"]) + "\n```" in (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", DOCUMENTS, ids=_id)
def test_targets_of_make_exist(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", file.read_text(encoding="utf-8"))) <= targets


def _code_map() -> dict[str, str]:
    text = prose(ROOT / "ARCHITECTURE.md")
    paragraphs = text[text.index("## Code map") : text.index("## Invariants")].split("\n\n")
    heads = [(match[1], paragraph) for paragraph in paragraphs if (match := re.match(r"\*\*(.+?)\*\*", paragraph))]
    return {name: paragraph for head, paragraph in heads for name in re.findall(r"`([\w.]+)/?`", head)}


def test_every_package_and_module_at_the_top_has_its_paragraph() -> None:
    top = {
        path.name for path in (ROOT / "service").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert top - {"__init__.py"} == set(_code_map()) | {"cli.py", "entry.py"}  # the command line is an entry point


def test_the_code_map_names_modules_that_exist() -> None:
    for package, paragraph in _code_map().items():
        if not package.endswith(".py") and package not in {"demo", "client"}:
            folder = ROOT / "service" / package
            known = {path.stem for path in folder.rglob("*.py")} | {path.name for path in folder.rglob("*")}
            named = set(re.findall(r"`(\w+)/?`", paragraph.partition("**`")[2].partition("**")[2]))
            assert named <= known, f"{package}: {named - known}"


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=_id)
def test_decisions_have_their_five_parts(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert headings(file)[0].startswith(f"{file.name[:4]} ")
    for part in ("Context", "Options", "Choice", "Consequence", "What would change our mind"):
        assert f"**{part}.**" in text, part


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").iterdir():
        assert picture.stat().st_size < 200_000
