"""``camserve golden`` as somebody's CI runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.environment import settings_of_tests
from tests.server import running_server
from tests.test_cli import run

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = Path("service/demo/samples").absolute()
NAMES = ("03-star.png", "watermark-disk.png")


@pytest.fixture(autouse=True, scope="module")
def _clean_environment() -> Iterator[None]:
    with settings_of_tests(device="cpu"):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copy(SAMPLES / name, tmp_path)
    return tmp_path


def record(folder: Path, *arguments: str, files: tuple[str, ...] = NAMES) -> Path:
    out = folder / "golden.json"
    ran = run("golden", "record", *(folder / name for name in files), "--out", out, "--model", "shapes", *arguments)
    assert ran.code == 0, ran.err
    return out


def check(recording: Path, model: str, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    out = recording.parent / "moved"
    ran = run("golden", "check", recording, "--model", model, "--out", out, "--json", *arguments)
    told = json.loads(ran.out)
    assert told["passed"] == (ran.code == 0)
    return ran.code, told


def test_the_model_itself_passes_and_nothing_is_drawn(folder: Path) -> None:
    code, told = check(record(folder), "shapes")

    assert code == 0
    assert [each["file"] for each in told["pictures"]] == list(NAMES), "from the recording's own folder"
    assert [a_map["moved"] for each in told["pictures"] for a_map in each["maps"]] == [0, 0]
    assert told["recorded"] == told["now"]
    assert not (folder / "moved").exists()


def test_a_version_that_looks_elsewhere_fails_with_a_picture_of_it(folder: Path) -> None:
    """The shortcut's model says disk because of the watermark, and star because of the star."""
    recording = record(folder)
    ran = run(
        "golden", "check", recording, "--model", "shapes-shortcut", "--out", folder / "moved", "--tolerance", "0.5"
    )

    drawn = folder / "moved" / "watermark-disk-layer4-gradcam-disk.png"
    assert ran.code == 1
    assert f"% of the map lies elsewhere (layer4, gradcam, disk): {drawn}" in ran.out
    assert ran.out.splitlines()[-1].startswith("failed: 2 maps of shapes-shortcut ")
    assert ", 1 moved by more than 0.5 (50%), the furthest by 9" in ran.out.splitlines()[-1]
    assert [file.name for file in drawn.parent.iterdir()] == [drawn.name]
    with Image.open(drawn) as sheet:
        assert sheet.width > 3 * 96


def test_how_far_is_too_far_is_for_the_caller_to_say(folder: Path) -> None:
    assert check(record(folder), "shapes-shortcut", "--tolerance", "1")[0] == 0
    assert run("golden", "check", folder / "golden.json", "--tolerance", "2").code == 2


def test_the_options_of_the_recording_are_asked_again(folder: Path) -> None:
    recording = record(
        folder,
        "--layer",
        "layer3",
        "--layer",
        "layer4",
        "--method",
        "hirescam",
        "--target",
        "top-2",
        "--target",
        "star",
        files=NAMES[:1],
    )
    code, told = check(recording, "shapes")

    assert code == 0
    (picture,) = told["pictures"]
    maps = [(each["layer"], each["method"], each["label"]) for each in picture["maps"]]
    second = maps[1][2]
    assert second != "star"
    assert maps == [(f"layer{n}", "hirescam", label) for n in (3, 4) for label in ("star", second, "star")]


def test_pictures_that_changed_or_are_gone_fail(folder: Path) -> None:
    recording = record(folder)
    (folder / NAMES[0]).unlink()
    shutil.copy(SAMPLES / "04-cross.png", folder / NAMES[1])
    code, told = check(recording, "shapes")

    assert code == 1
    gone, changed = (each["error"] for each in told["pictures"])
    assert "cannot be read: No such file" in gone
    assert "is another one than was recorded" in changed


def test_a_class_that_is_gone_fails(folder: Path) -> None:
    recording = record(folder, files=NAMES[:1])
    recording.write_text(recording.read_text().replace('"star"', '"sun"'))
    code, told = check(recording, "shapes")

    assert code == 1
    assert "no class 'sun' now" in told["pictures"][0]["error"]


def test_a_picture_that_cannot_be_recorded_is_named_and_the_others_are(folder: Path) -> None:
    (folder / "notes.png").write_text("no picture")
    ran = run("golden", "record", folder, "--out", folder / "golden.json", "--model", "shapes")

    assert ran.code == 1
    assert "notes.png: " in ran.err
    assert ran.out.startswith("2 recorded, 1 failed")


@pytest.mark.slow
def test_a_server_is_asked_as_well(folder: Path) -> None:
    recording = record(folder)
    with running_server("--model", "shapes", "--model", "shapes-shortcut", "--device", "cpu") as server:
        assert check(recording, "shapes", "--server", server.url)[0] == 0
        code, told = check(recording, "shapes-shortcut", "--server", server.url)
    assert code == 1
    assert told["now"]["name"] == "shapes-shortcut"
