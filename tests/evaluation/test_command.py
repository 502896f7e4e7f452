"""``camserve evaluate``: what it prints and writes, and what it says of what is wrong."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from service.commands.evaluate_pictures import pictures_of_all
from service.commands.evaluated import require_places, write
from service.demo.scenes import LABELS, make_scene
from service.errors import InvalidOption
from service.settings import Settings
from tests.environment import settings_of_tests
from tests.evaluation.fakes import INFO
from tests.test_cli import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.models.info import ModelInfo

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
    assert said.count("broken.png: ") == 1
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
        ((SAMPLES, "--boxes", SAMPLES), "is a folder: name the COCO file"),
        ((SAMPLES, "--masks", "docs"), "Nothing in docs is about these pictures"),
        ((SAMPLES, "--purpose", "localisation"), "give --boxes or --masks"),
        ((SAMPLES, "--layers", "layer9"), "layer9"),
        ((SAMPLES, "--layers", "fc"), "fc"),
        ((SAMPLES, "--methods", "gradcan"), "gradcan"),
        ((SAMPLES, "--methods", "legrad"), "does not apply to model 'shapes'"),
        ((SAMPLES, "--compare-with", "nothing-of-the-kind"), "nothing-of-the-kind"),
        ((SAMPLES, "--compare-with", "shapes-shortcut", "--layers", "layer9"), "layer9"),
        (
            (SAMPLES, "--compare-with", "other=tests.user_models.one_head,size=32", "--layers", "layer4"),
            "Model 'other', to compare with: There is no layer 'layer4'. Leave out --layers",
        ),
        ((SAMPLES, "--report", SAMPLES), "is a folder: name the file to write"),
        ((SAMPLES, "--report", "README.md/report.html"), "its folder cannot be made"),
        ((SAMPLES, "--report", "-"), "Name the file to write"),
        ((SAMPLES, "--report", "one.html", "--json", "one.html"), "name two files"),
        ((SAMPLES, "--seed", "-1"), f"'seed' must be 0 to {2**63 - 1}"),
        ((SAMPLES, "--seed", str(2**63)), f"'seed' must be 0 to {2**63 - 1}"),
        (("openapi",), "there is no picture in openapi"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_computed(arguments: tuple[str | Path, ...], words: str) -> None:
    ran = run("evaluate", *arguments)
    assert ran.code == 1
    assert words in ran.err
    assert "Traceback" not in ran.err


class TestPictures:
    """``pictures_of_all``, with the squares' model, which takes colours."""

    @staticmethod
    def found(folder: Path, *infos: ModelInfo, masks: Path | None = None) -> list[list[str]]:
        options = Namespace(folder=folder, masks=masks, boxes=None)
        return [[each.name for each in kept] for kept in pictures_of_all(options, Settings(), infos or [INFO])]

    def test_none_can_be_used(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(FileNotFoundError, match=r"there is no picture in .* that can be used"):
            self.found(tmp_path)
        assert "a.png: The picture is empty" in capsys.readouterr().err

    def test_what_the_other_model_cannot_be_shown_is_said(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
        Image.new("RGBA", (40, 40)).save(tmp_path / "b.png")
        spec = replace(INFO.preprocess, channels=4, mean=(0.5,) * 4, std=(0.5,) * 4)
        assert self.found(tmp_path, INFO, replace(INFO, preprocess=spec)) == [["b.png"], ["b.png"]]
        assert capsys.readouterr().err.startswith(f"{tmp_path / 'a.png'}: The model takes 4 channels")

    def test_masks_that_mark_nothing_are_not_taken_for_misnamed(self, tmp_path: Path) -> None:
        Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
        Image.new("L", (40, 40)).save(tmp_path / "a.mask.png")
        with pytest.raises(InvalidOption, match="is empty, or cropped away before model squares sees it"):
            self.found(tmp_path, masks=tmp_path)

    def test_folders_that_are_no_class_are_said(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("red", "reds", "Green"):
            (tmp_path / name).mkdir()
            Image.new("RGB", (96, 96), "red").save(tmp_path / name / "a.png")
        self.found(tmp_path)
        told = "Folders that are no class of squares, whose pictures may be of any: 'reds' (1).\n"
        assert capsys.readouterr().err == told


class TestWriting:
    """``write`` by itself: files first, whole or not at all."""

    @staticmethod
    def wanted(report: Path | None = None, json: Path | None = None) -> Namespace:
        return Namespace(report=report, json=json, purpose=None)

    def test_files_are_there_before_anything_is_printed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object, **__: object) -> None:
            raise BrokenPipeError

        monkeypatch.setattr("builtins.print", broken)
        with pytest.raises(BrokenPipeError):
            write(self.wanted(tmp_path / "r.html", Path("-")), {}, lambda: "all of it", [])
        assert (tmp_path / "r.html").read_text(encoding="utf-8") == "all of it"

    def test_a_report_that_cannot_be_had_does_not_keep_the_rest(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def gone() -> str:
            raise InvalidOption("It is gone.")

        with pytest.raises(InvalidOption, match="It is gone"):
            write(self.wanted(tmp_path / "r.html", tmp_path / "j.json"), {"seed": 0}, gone, ["the table"])
        assert "the table" in capsys.readouterr().out
        assert [file.name for file in tmp_path.iterdir()] == ["j.json"]

    def test_a_device_without_room(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(OSError, match="the report could not be written to /dev/full: No space left"):
            write(self.wanted(Path("/dev/full")), {}, lambda: "x", ["the table"])
        assert "the table" in capsys.readouterr().out

    def test_interrupted_it_leaves_what_was_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        (tmp_path / "r.html").write_text("before", encoding="utf-8")
        monkeypatch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write(self.wanted(tmp_path / "r.html"), {}, lambda: "half", [])
        assert {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()} == {"r.html": "before"}

    def test_a_link_stays_one(self, tmp_path: Path) -> None:
        (tmp_path / "link.html").symlink_to("real.html")
        write(self.wanted(tmp_path / "link.html"), {}, lambda: "new", [])
        assert (tmp_path / "link.html").is_symlink()
        assert (tmp_path / "real.html").read_text(encoding="utf-8") == "new"

    def test_the_folder_must_be_writable_even_where_the_file_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is written whole is written beside it first."""
        (tmp_path / "r.html").write_text("before", encoding="utf-8")
        monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)  # root may write anywhere
        with pytest.raises(InvalidOption, match="you lack the permission, for it or for its folder"):
            require_places(self.wanted(tmp_path / "r.html"))

    def test_both_may_go_nowhere(self) -> None:
        require_places(self.wanted(Path("/dev/null"), Path("/dev/null")))
