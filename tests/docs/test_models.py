"""docs/models.md, what needs no extra: its blocks are run one after the other, in one folder."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import ROOT, blocks

if TYPE_CHECKING:
    from pathlib import Path

MARK = "tests/docs/test_models.py runs it"
SHOWN = [block for block in blocks(ROOT / "docs" / "models.md") if MARK in block.comment]


def ran(command: str) -> str:
    return subprocess.run(["bash", "-euc", command], check=True, timeout=120, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_your_own_code_is_found_and_given_its_arguments(workdir: Path) -> None:
    code, shown = SHOWN[:2]
    (workdir / "nets.py").write_text(code.text, encoding="utf-8")
    layers = ran(shown.text)
    assert "* the default layer of mine" in layers
    assert "16×32×32" in layers, "the width that was asked for"


@pytest.mark.slow
def test_a_program_of_torch_export_passes_every_check(workdir: Path) -> None:
    code, shown = SHOWN[2:]
    made = f"from service.models import torchvision_adapter\n{code.text}"
    subprocess.run(["python", "-c", made], check=True, timeout=120)
    assert "food (./food.pt2): ok" in ran(shown.text)
