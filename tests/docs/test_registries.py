"""Everything that can be asked for, set, counted or go wrong stands in the documents."""

from __future__ import annotations

import argparse
import re

from docs import make_tables
from service import __version__
from service.cam.methods import METHODS
from service.cli import make_parser
from service.imaging.colormaps import COLORMAPS
from service.metrics import Metrics
from service.models.defaults import FAMILIES
from service.models.sources.table import SOURCES
from service.options import OPTIONS
from service.problems import STATUS
from service.settings import KeyConfig, ModelConfig, Settings
from service.web.app import create_app
from tests.docs.documents import ROOT, first_cells, headings

DOCS = ROOT / "docs"


def test_tables_are_what_the_code_says() -> None:
    stale = [str(file.relative_to(ROOT)) for file in make_tables.stale(repair=False)]
    assert not stale, f"stale tables in {', '.join(stale)}: run .venv/bin/python docs/make_tables.py"


def test_every_table_is_used() -> None:
    texts = "".join(file.read_text(encoding="utf-8") for file in DOCS.rglob("*.md"))
    assert {name for name in make_tables.TABLES if f"<!-- table: {name} -->" not in texts} == set()


def test_settings() -> None:
    assert set(Settings.model_fields) <= set(first_cells(DOCS / "operations.md", "Settings"))
    assert set(ModelConfig.model_fields) <= set(first_cells(DOCS / "models.md", "Naming a model"))
    assert set(KeyConfig.model_fields) <= set(first_cells(DOCS / "operations.md", "Keys"))


def test_every_flag_of_the_table_exists() -> None:
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"^\| `\w+` \| `(--[a-z-]+)`", text, re.MULTILINE))
    subcommands = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert flags == {"--model" if name == "models" else f"--{name.replace('_', '-')}" for name in Settings.model_fields}
    assert flags <= set(subcommands.choices["serve"]._option_string_actions)


def test_benchmarks() -> None:
    text = (ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8")
    names = set(re.findall(r'^    "(\w+)": \w+\.\w+,$', text, re.MULTILINE))
    assert "explain" in names
    assert names <= set(first_cells(DOCS / "performance.md", "Performance"))


def test_request_options() -> None:
    assert set(OPTIONS) <= set(first_cells(DOCS / "api.md", "Options"))


def test_errors_have_a_section_each() -> None:
    assert set(headings(DOCS / "errors.md")) - {"Errors", "All codes"} == set(STATUS)


def test_error_sections_say_when_and_what_to_do() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    for section in text.split("\n### ")[1:]:
        assert "**When**: " in section, section
        assert "**What to do**: " in section, section


def test_metrics() -> None:
    scraped = Metrics().expose()[0].decode()
    families = {line.split()[2] for line in scraped.splitlines() if line.startswith("# TYPE ")}
    assert families <= set(first_cells(DOCS / "operations.md", "Metrics"))
    assert len(families) >= 10


def test_methods_and_colormaps() -> None:
    assert set(METHODS) <= set(first_cells(DOCS / "api.md", "Methods"))
    assert set(COLORMAPS) <= set(first_cells(DOCS / "api.md", "Colormaps"))


def test_model_sources_and_families() -> None:
    assert set(SOURCES) <= set(first_cells(DOCS / "models.md", "Models"))
    assert set(FAMILIES) <= set(first_cells(DOCS / "models.md", "Which layer"))


def test_routes() -> None:
    app = create_app(Settings())
    described = {
        f"{verb.upper()} {path}" for path, verbs in app.openapi()["paths"].items() for verb in verbs if verb != "head"
    }
    files = (DOCS / "api.md", DOCS / "protocols.md", DOCS / "labelling.md")
    listed = {cell for file in files for cell in first_cells(file, "Routes")} - {"route"}
    assert described <= listed
    assert listed - described == {"GET /", "GET /docs", "GET /errors", "GET /openapi.json"}


def test_commands() -> None:
    subcommands = next(action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    listed = {cell.split()[1] for cell in first_cells(DOCS / "api.md", "Command line") if cell != "command"}
    assert listed == set(subcommands.choices)


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    assert f"[{__version__}]" in next(name for name in headings(ROOT / "CHANGELOG.md") if re.match(r"\[\d", name))
