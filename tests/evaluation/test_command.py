"""``camserve evaluate``: what it prints and writes, and what it says of what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from service.demo.scenes import LABELS, make_scene
from tests.environment import settings_of_tests
from tests.test_cli import run

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = Path("service/demo/samples")


@pytest.fixture(autouse=True, scope="module")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with settings_of_tests(device="cpu", models="shapes", cache_dir=tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen scenes in folders that are named after their classes, and their masks."""
    root, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for number in range(16):
        scene = make_scene(rng, number % 4)
        for kind, pixels in (("pictures", scene.pixels), ("masks", scene.target_mask.astype(np.uint8) * 255)):
            place = root / kind / LABELS[scene.label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    (root / "pictures" / "notes.txt").write_text("not a picture", encoding="utf-8")
    (root / "pictures" / "broken.png").write_bytes(b"not a picture")
    return root


@pytest.fixture(scope="module")
def told(folder: Path) -> tuple[str, str, Path]:
    """What is printed and what went wrong, and the folder with what was written."""
    ran = run(
        *("evaluate", folder / "pictures", "--masks", folder / "masks", "--layers", "layer1", "layer4"),
        *("--report", folder / "report.html", "--json", folder / "out.json"),
    )
    assert ran.code == 0, ran.err
    return ran.out, ran.err, folder


def test_the_table_has_candidates_and_what_they_have_to_beat(told: tuple[str, str, Path]) -> None:
    printed, _, _ = told
    for words in ("layer1 / gradcam", "layer4 / gradcam", "a random map", "a map of the centre", "edges", "mosaics"):
        assert words in printed
    assert "use layer4" in printed, printed


def test_what_cannot_be_read_is_said_and_left_out(told: tuple[str, str, Path]) -> None:
    _, said, _ = told
    assert "broken.png" in said
    assert "1 .txt" in said


def test_json_and_report_are_written(told: tuple[str, str, Path]) -> None:
    _, _, root = told
    found = json.loads((root / "out.json").read_text(encoding="utf-8"))
    assert found["images"] == 16
    assert [row["layer"] for row in found["rows"]] == ["layer1", "layer4"]
    assert found["model"]["name"] == "shapes"
    assert "Which layer explains shapes?" in (root / "report.html").read_text(encoding="utf-8")


def test_one_purpose_alone_and_json_on_standard_output(folder: Path) -> None:
    ran = run("evaluate", folder / "pictures", "--purpose", "class", "--layers", "layer4", "--json", "-")
    found = json.loads(ran.out)
    assert [each["purpose"] for each in found["recommendations"]] == ["class"]
    assert set(found["rows"][0]["metrics"]) == {"grid_pointing_game"}


@pytest.mark.slow
def test_two_models_on_the_same_pictures(tmp_path: Path) -> None:
    report, figures = tmp_path / "new" / "report.html", tmp_path / "out.json"
    ran = run(
        *("evaluate", SAMPLES, "--masks", SAMPLES, "--purpose", "localisation", "--layers", "layer4"),
        *("--compare-with", "shapes-shortcut", "--report", report, "--json", figures),
    )
    assert ran.code == 0, ran.err
    told = json.loads(figures.read_text(encoding="utf-8"))["comparison"]
    first = told["pictures"][0]
    assert first["file"] == "watermark-disk.png"
    assert first["same_answer"]
    assert first["moved"] > 0.5
    assert told["second"]["model"]["name"] == "shapes-shortcut"
    assert "shapes-shortcut compared with shapes" in ran.out
    assert "The answer stayed, the map moved" in report.read_text(encoding="utf-8")
    assert [each.name for each in report.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "there is no folder nowhere"),
        ((SAMPLES, "--masks", "nowhere"), "there is no folder nowhere"),
        ((SAMPLES, "--boxes", "nowhere.json"), "nowhere.json"),
        ((SAMPLES, "--boxes", "README.md"), "README.md is no COCO file"),
        ((SAMPLES, "--masks", "docs"), "Nothing in docs is about these pictures"),
        ((SAMPLES, "--layers", "layer9"), "layer9"),
        ((SAMPLES, "--layers", "fc"), "fc"),
        ((SAMPLES, "--methods", "gradcan"), "gradcan"),
        ((SAMPLES, "--methods", "legrad"), "does not apply to model 'shapes'"),
        ((SAMPLES, "--compare-with", "nothing-of-the-kind"), "nothing-of-the-kind"),
        ((SAMPLES, "--compare-with", "shapes-shortcut", "--layers", "layer9"), "layer9"),
        ((SAMPLES, "--report", SAMPLES), "is a folder: name the file to write"),
        ((SAMPLES, "--report", "README.md/report.html"), "its folder cannot be made"),
        ((SAMPLES, "--seed", "-1"), "'seed' must be 0 or more"),
        (("openapi",), "there is no picture in openapi"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(arguments: tuple[str | Path, ...], words: str) -> None:
    ran = run("evaluate", *arguments)
    assert ran.code == 1
    assert words in ran.err
    assert "Traceback" not in ran.err
