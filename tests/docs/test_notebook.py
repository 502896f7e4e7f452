"""docs/from-notebook-to-service.md, the half of torchvision: its blocks are run one after the other, in one folder."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.docs.documents import ROOT, blocks
from tests.docs.test_blocks import EXAMPLE_URL
from tests.server import running_server

if TYPE_CHECKING:
    from pathlib import Path

MARK = "tests/docs/test_notebook.py runs it"


@pytest.mark.slow
def test_a_notebooks_model_is_trained_checked_served_and_asked(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMSERVE_DEVICE", "cpu")
    document = blocks(ROOT / "docs" / "from-notebook-to-service.md")
    train, check, ask = (block.text for block in document if MARK in block.comment)
    (serve,) = [block.text for block in document if block.text.startswith("camserve serve --model colours=")]
    (shown,) = [block.text for block in document if block.text.startswith("colours (resnet18): ")]

    training = f"from service.models import torchvision_adapter\n{train}"  # which helps the import along where it must
    subprocess.run(["python", "-c", training], check=True, timeout=120)
    checked = subprocess.run(["bash", "-euc", check], check=True, timeout=120, capture_output=True, text=True).stdout
    assert Image.open(io.BytesIO((workdir / "checked" / "colours.png").read_bytes())).format == "PNG"
    for line in shown.splitlines()[1:]:
        said = re.split(r"…|\d+\.\d%", line)[0].rstrip()
        assert said in checked, f"{said!r} is not in\n{checked}"

    with running_server(*shlex.split(serve)[2:]) as server:
        script = ask.replace(EXAMPLE_URL, server.url).replace("curl", "curl --silent --show-error --fail")
        answered = subprocess.run(["bash", "-euc", script], check=True, timeout=60, capture_output=True, text=True)
    result = json.loads(answered.stdout)["results"][0]
    assert result["predictions"][0]["label"] == "blue"
    assert [explanation["layer"] for explanation in result["explanations"]] == ["layer3", "layer3"]
    assert Image.open(io.BytesIO((workdir / "heatmap.png").read_bytes())).format == "PNG"
