"""What docs/models.md shows of sources that are extras: run where these are installed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.docs.conftest import workdir
from tests.docs.documents import ROOT, blocks
from tests.sources.extras import need

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["workdir"]

need("timm", "timm")
need("transformers", "hf")
need("open_clip", "clip")
need("onnx2torch", "onnx")

LIBRARIES = {
    "timm": "import timm",
    "hf": "from transformers import",
    "onnx": "import torch\n",
    "clip": "import open_clip",
}
NAMES = {"onnx": "food"}
SHOWN = [block for block in blocks(ROOT / "docs" / "models.md") if "tests/sources/test_documents.py" in block.comment]


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_shown_runs(library: str, workdir: Path) -> None:
    place = next(index for index, block in enumerate(SHOWN) if block.text.startswith(LIBRARIES[library]))
    made, shown = SHOWN[place : place + 2]
    assert (made.language, shown.language) == ("python", "bash")

    code = "from service.models import torchvision_adapter\n" + made.text
    subprocess.run(["python", "-c", code], check=True, timeout=600)
    ran = subprocess.run(["bash", "-euc", shown.text], check=True, timeout=600, capture_output=True, text=True)

    assert ran.stdout.count(f"* the default layer of {NAMES.get(library, 'birds')}") == shown.text.count(
        "camserve layers"
    )
    if library == "clip":
        assert ran.stdout.count("red car") == 1
        assert "a star on a dark ground" in (workdir / "camserve-out" / "explanations.json").read_text()
