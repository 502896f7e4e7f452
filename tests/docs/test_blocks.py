"""Every block of code in the documents is run, or says why not."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from service.cli import make_parser
from service.protocols.label_studio.config import parse_config
from service.settings import load_settings
from tests.docs.documents import ALL_BLOCKS, ROOT, Block
from tests.docs.shapes import differences
from tests.protocols.label_studio import wire

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EXAMPLE_URL = "http://127.0.0.1:8000"
_OTHER_COMMANDS = ("docs/make_tables.py",)


def _chosen(language: str, blocks: Iterable[Block] = ALL_BLOCKS) -> list[Any]:
    return [pytest.param(block, id=str(block)) for block in blocks if block.language == language and not block.not_run]


def _lines(block: Block) -> list[str]:
    joined = block.text.replace("\\\n", " ")
    return [line.partition("   #")[0].strip() for line in joined.splitlines() if line.strip()]


def _kind(block: Block) -> str:
    """Tell how a ``bash`` block is checked: by its requests, its targets of make, its arguments, or not at all."""
    lines = _lines(block)
    for kind, begins in {"make": "make ", "serve": "camserve serve", "command": "camserve "}.items():
        if all(line.startswith(begins) for line in lines):
            return kind
    if any(name in block.text for name in _OTHER_COMMANDS):
        return "script"
    return "curl" if "curl " in block.text else "unknown"


BASH = [block for block in ALL_BLOCKS if block.language == "bash" and not block.not_run]


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=str)
def test_every_block_is_run_or_says_why_not(block: Block) -> None:
    if "not run" in block.comment:
        assert block.not_run, f"{block}: a reason is missing"
    assert block.language in {"bash", "python", "toml", "json", "text", "xml"} or block.not_run, f"{block}: not checked"
    if block.language == "bash" and not block.not_run:
        assert _kind(block) != "unknown", f"{block}: nothing in it can be checked; mark it as not run"
    if block.language == "json" and not block.not_run:
        assert block.command is not None, f"{block}: whose answer is it?"


@pytest.mark.parametrize("block", [block for block in ALL_BLOCKS if block.language == "xml"], ids=str)
def test_labelling_configurations_can_be_filled_in_by_the_embedded_model(block: Block) -> None:
    """Whole ones, and controls that stand beside the picture of another."""
    read = parse_config(block.text if "<Image" in block.text else wire.config(block.text))
    known = set((ROOT / "service/demo/labels.txt").read_text(encoding="utf-8").split())
    assert read.controls
    assert {label.value for control in read.controls for label in control.labels} <= known


def _run(block: Block, url: str) -> subprocess.CompletedProcess[str]:
    assert EXAMPLE_URL in block.text or "curl" not in block.text
    script = re.sub(r"\bcurl\b", "curl --silent --show-error", block.text.replace(EXAMPLE_URL, url))
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, check=True, timeout=120
    )


@pytest.mark.parametrize("block", _chosen("bash", [block for block in BASH if _kind(block) == "curl"]))
def test_requests_are_answered(block: Block, server_url: str, workdir: Path) -> None:
    output = _run(block, server_url).stdout
    answers = [each for each in ALL_BLOCKS if each.command == block]
    if not answers:
        refused = output.startswith("{") and {"code", "error"} & set(json.loads(output))
        assert not refused, f"{block}: {output}"
    for answer in answers:
        every_key = answer.comment == "every key"
        wrong = differences(json.loads(answer.text), json.loads(output), every_key=every_key)
        assert not wrong, f"{answer} is not the answer to {block}:\n" + "\n".join(wrong)
    for name in re.findall(r" -o (\S+)", block.text):
        assert (workdir / name).read_bytes()[:4] in (b"\xff\xd8\xff\xe0", b"\x89PNG"), f"{block}: {name}"


@pytest.mark.parametrize("block", _chosen("bash", [block for block in BASH if _kind(block) == "command"]))
def test_commands_run(block: Block, workdir: Path) -> None:
    _run(block, "")


@pytest.mark.parametrize("block", _chosen("bash", [block for block in BASH if _kind(block) == "serve"]))
def test_serve_understands_its_arguments(block: Block, workdir: Path) -> None:
    (workdir / "camserve.toml").touch()
    for line in _lines(block):
        options = make_parser().parse_args(line.split()[1:])
        given = {
            name: value for name, value in vars(options).items() if name not in {"run", "command", "config"} and value
        }
        settings = load_settings(options.config, **given)
        assert settings.models


@pytest.mark.parametrize("block", _chosen("bash", [block for block in BASH if _kind(block) in {"make", "script"}]))
def test_targets_and_scripts_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in _lines(block):
        name = line.split()[1]
        assert name in targets or (ROOT / name).is_file(), f"{block}: {name}"


@pytest.mark.parametrize("block", _chosen("python"))
def test_python_runs(block: Block, server_url: str, workdir: Path) -> None:
    assert EXAMPLE_URL in block.text, f"{block}: name the server, so that it can be replaced"
    code = compile(block.text.replace(EXAMPLE_URL, server_url), str(block), "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, {"__name__": "__main__"})


@pytest.mark.parametrize("block", _chosen("toml"))
def test_settings_load(block: Block, workdir: Path) -> None:
    file = workdir / "camserve.toml"
    file.write_text(block.text, encoding="utf-8")
    shown = tomllib.loads(block.text)
    for model in shown.get("models", []):
        for name in (model.get("weights", ""), model.get("labels", "")):
            if "." in name:
                (workdir / name).touch()
    settings = load_settings(file)
    for name, value in shown.items():
        if name not in {"models", "keys"}:  # tables, with defaults of their own
            assert getattr(settings, name) == value
    assert len(settings.models) == len(shown.get("models", settings.models))
    for model, config in zip(shown.get("models", []), settings.models, strict=False):
        if "weights" in model:
            assert str(workdir) in str(config.weights), f"{block}: weights are not read beside the file"
