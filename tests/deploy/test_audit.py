"""What the audit of dependencies makes of the auditor's report."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]

SOUND = {"name": "pillow", "version": "13.0.0", "vulns": []}
BAD = {
    "name": "starlette",
    "version": "0.1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.2", "0.3"], "aliases": [], "description": "…"}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_verdict", ROOT / "scripts" / "audit_verdict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (report(SOUND), 0, "1 packages audited, 0 findings."),
        (report(SOUND, BAD), 1, "starlette 0.1: PYSEC-1, fixed in 0.2, 0.3"),
        (report(SOUND, UNKNOWN), 1, "torch: not audited"),
    ],
)
def test_findings_fail(script: ModuleType, text: str, code: int, says: str) -> None:
    for required in (False, True):
        found, said = script.verdict(text, required=required)
        assert found == code
        assert says in said


@pytest.mark.parametrize("text", ["", report(), report(UNKNOWN, UNKNOWN)])
def test_an_audit_of_nothing_is_never_called_a_clean_one(script: ModuleType, text: str) -> None:
    assert script.verdict(text, required=True)[0] == 1
    code, said = script.verdict(text, required=False)
    assert code == 0
    assert said.startswith("NOT AUDITED")
    assert not re.search(r"\d+ packages", said)
