"""``camserve export``: what is written, and that what was ended goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from service import cli
from service.areas import area_of, levels_of
from service.commands import asking, pictures
from service.errors import InvalidOption, Unavailable
from service.export.journal import Journal
from service.export.label_studio import config
from service.export.records import Record
from service.labelling.rle import encode
from tests.server import running_server
from tests.test_cli import run

if TYPE_CHECKING:
    from numpy.typing import NDArray

SAMPLES = Path(cli.__file__).parent / "demo" / "samples"
NAMES = ("00-disk.png", "03-star.png", "05-ring.png", "sub folder/11-gear.png")
WIDE = (256, 192)
ALONE = ("--max-batch-size", "1")  # in batches of other pictures, the last bits of a map are others


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "sub folder").mkdir()
    for name in NAMES:
        shutil.copy(SAMPLES / Path(name).name, folder / name)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff but not for long")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def exported(kind: str, folder: Path, out: Path, *arguments: str | Path) -> Any:
    """Run the command; return what it wrote as JSON."""
    ran = run("export", kind, folder, "--out", out, "--log-level", "error", *arguments)
    assert ran.code == 1, "two pictures cannot be read"
    assert f"{folder / 'bad.jpg'}: " in ran.err
    assert f"{folder / 'gone.png'}: The file cannot be read" in ran.err
    assert "skipped 1, not named as pictures that are read: 1 .txt" in ran.err
    assert f"{len(NAMES)} exported, 2 failed: {out}" in ran.out
    assert not list(out.parent.glob("*.journal"))
    assert not list(out.parent.glob("*.part"))
    return json.loads((out / "samples.json" if out.is_dir() else out).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def explained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``camserve explain`` says of the pictures, by file."""
    out = tmp_path_factory.mktemp("explained")
    flags = ("--output", "mask", "--output", "regions", "--image-format", "png", "--max-side", "8192")
    run("explain", folder, "--out", out, *flags, *ALONE)
    results = json.loads((out / "explanations.json").read_text(encoding="utf-8"))
    for result in results:
        (explanation,) = result["explanations"]
        width, height = result["image"]["width"], result["image"]["height"]
        levels = levels_of((out / explanation["mask"]).read_bytes(), width, height)
        areas = [area_of(levels, region["polygon"], 0.5) for region in explanation["regions"]]
        result["masks"] = [area.on_picture(width, height) for area in areas if area is not None]
    return {str(Path(result["file"]).relative_to(folder)): result for result in results}


# -- COCO -------------------------------------------------------------------------------------------------------------


def decoded(segmentation: dict[str, Any]) -> NDArray[np.bool_]:
    height, width = segmentation["size"]
    values = np.arange(len(segmentation["counts"])) % 2 == 1
    flat = np.repeat(values, segmentation["counts"])
    return flat.reshape((height, width), order="F")


@pytest.mark.parametrize("shapes", ["boxes", "regions", "masks"])
def test_coco(shapes: str, folder: Path, explained: dict[str, Any], tmp_path: Path) -> None:
    coco = exported("coco", folder, tmp_path / "coco.json", f"--{shapes}", *ALONE)
    assert set(coco) == {"info", "licenses", "categories", "images", "annotations"}
    categories = {each["id"]: each["name"] for each in coco["categories"]}
    assert list(categories) == list(range(1, 13))
    images = {each["id"]: each for each in coco["images"]}
    assert [each["file_name"] for each in coco["images"]] == list(NAMES)
    assert [each["id"] for each in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    seen: dict[str, list[Any]] = {name: [] for name in NAMES}
    for annotation in coco["annotations"]:
        assert {"id", "image_id", "category_id", "iscrowd", "score", "bbox", "area", "segmentation"} == set(annotation)
        seen[images[annotation["image_id"]]["file_name"]].append(annotation)
    for name, found in seen.items():
        result = explained[name]
        regions = result["explanations"][0]["regions"]
        target = result["explanations"][0]["target"]
        assert (images[list(NAMES).index(name) + 1]["width"]) == result["image"]["width"]
        assert len(found) == len(regions if shapes != "masks" else result["masks"])
        for number, annotation in enumerate(found):
            assert categories[annotation["category_id"]] == target["label"]
            assert annotation["score"] == pytest.approx(target["probability"], abs=1e-5)
            if shapes == "masks":
                mask = decoded(annotation["segmentation"])
                assert (mask == result["masks"][number]).all()
                assert annotation["area"] == mask.sum()
                ys, xs = np.nonzero(mask)
                box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
                assert annotation["bbox"] == box
            else:
                box = regions[number]["box"]
                corner = [box["left"], box["top"], box["right"] - box["left"], box["bottom"] - box["top"]]
                assert annotation["bbox"] == pytest.approx(corner)
            if shapes == "regions":
                (outline,) = annotation["segmentation"]
                assert outline == [value for point in regions[number]["polygon"] for value in point]
                picture = result["image"]["width"] * result["image"]["height"]
                assert annotation["area"] == pytest.approx(regions[number]["area"] * picture, rel=0.1)
            if shapes == "boxes":
                assert annotation["segmentation"] == []


# -- Label Studio -----------------------------------------------------------------------------------------------------


def brush_mask(rle: list[int], width: int, height: int) -> NDArray[np.uint8]:
    """Read a brush as Label Studio's ``decode_rle`` does: RGBA, of which the mask is the alpha."""
    stream = iter("".join(f"{byte:08b}" for byte in rle))

    def number(bits: int) -> int:
        return int("".join(next(stream) for _ in range(bits)), 2)

    count, word = number(32), number(5) + 1
    lengths = [number(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < count:
        repeated, length = number(1), number(lengths[number(2)]) + 1
        values += [number(word)] * length if repeated else [number(word) for _ in range(length)]
    assert len(values) == 4 * width * height
    return np.array(values, np.uint8).reshape(height, width, 4)[..., 3]


@pytest.mark.parametrize("shapes", ["boxes", "regions", "masks"])
def test_label_studio(shapes: str, folder: Path, explained: dict[str, Any], tmp_path: Path) -> None:
    flags = (f"--{shapes}", "--image-url", "/data/upload/", *ALONE)
    tasks = exported("label-studio", folder, tmp_path / "tasks.json", *flags)
    controls = {
        each.attrib["name"]: (each.tag, {label.attrib["value"] for label in each})
        for each in ElementTree.parse(tmp_path / "tasks-config.xml").getroot()  # our own
    }
    assert [task["data"]["image"] for task in tasks] == [f"/data/upload/{n.replace(' ', '%20')}" for n in NAMES]
    versions = {prediction["model_version"] for task in tasks for prediction in task["predictions"]}
    assert len(versions) == 1
    assert all(part in versions.copy().pop() for part in ("shapes", "layer4", "gradcam", "0.5"))
    for task, name in zip(tasks, NAMES, strict=True):
        (prediction,) = task["predictions"]
        result = explained[name]
        best = result["predictions"][0]
        choice, *regions = prediction["result"]
        assert prediction["score"] == pytest.approx(best["probability"], abs=1e-5)
        assert choice["value"] == {"choices": [best["label"]]}
        assert len({each["id"] for each in prediction["result"]}) == len(prediction["result"])
        for number, region in enumerate(prediction["result"]):
            tag, labels = controls[region["from_name"]]
            assert region["to_name"] == "image"
            assert region["type"] == tag.lower()
            assert set(region["value"].get(region["type"], region["value"].get("choices"))) <= labels
            if number == 0:
                continue
            width, height = result["image"]["width"], result["image"]["height"]
            assert (region["original_width"], region["original_height"], region["image_rotation"]) == (width, height, 0)
            value = region["value"]
            native = result["explanations"][0]["regions"][number - 1]
            if shapes == "masks":
                assert value["format"] == "rle"
                alpha = brush_mask(value["rle"], width, height)
                assert (alpha == 255 * result["masks"][number - 1]).all(), "255, or nothing is seen"
            elif shapes == "regions":
                points = [[x * 100 / width, y * 100 / height] for x, y in native["polygon"]]
                assert np.allclose(value["points"], points, atol=1e-3)
                assert value["closed"] is True
            else:
                assert value["x"] == pytest.approx(native["box"]["left"] * 100 / width, abs=1e-3)
                assert value["y"] + value["height"] == pytest.approx(native["box"]["bottom"] * 100 / height, abs=1e-3)
                assert value["rotation"] == 0
        assert len(regions) > 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (500, 300)])
def test_brushes_are_read_as_they_were(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(1).random(shape) > 0.7
    for mask in (random, np.zeros(shape, np.bool_), np.ones(shape, np.bool_)):
        alpha = brush_mask(encode(mask), shape[1], shape[0])
        assert (alpha == 255 * mask).all()


def test_labels_are_escaped_and_listed_once() -> None:
    root = ElementTree.fromstring(config(('a "b" <c> & d', "crane", "crane"), "masks"))  # our own
    for control in list(root)[1:]:
        assert [each.attrib["value"] for each in control] == ['a "b" <c> & d', "crane"]


# -- FiftyOne ---------------------------------------------------------------------------------------------------------


def unpacked(value: dict[str, Any]) -> NDArray[Any]:
    array: NDArray[Any] = np.load(BytesIO(zlib.decompress(b64decode(value["$binary"]["base64"]))), allow_pickle=False)
    return array


def test_fiftyone(folder: Path, explained: dict[str, Any], tmp_path: Path) -> None:
    layers = ("--layer", "layer3", "--layer", "layer4")
    samples = exported("fiftyone", folder, tmp_path / "dataset", "--masks", *layers, *ALONE)["samples"]
    assert [sample["filepath"] for sample in samples] == [str(folder / name) for name in NAMES]
    for sample, name in zip(samples, NAMES, strict=True):
        result = explained[name]
        best = result["predictions"][0]
        assert sample["prediction"] == {
            "_cls": "Classification",
            "label": best["label"],
            "confidence": pytest.approx(best["probability"]),
        }
        assert [each["label"] for each in sample["top_k"]["classifications"]] == [
            each["label"] for each in result["predictions"]
        ]
        width, height = result["image"]["width"], result["image"]["height"]
        for field in ("heatmap_layer3", "heatmap_layer4"):
            heat = unpacked(sample[field]["map"])
            assert sample[field]["range"] == [0, 255]
            assert heat.shape[1] / heat.shape[0] == pytest.approx(width / height, rel=0.02), "the whole picture's grid"
            assert field == "heatmap_layer3" or heat.max() > 200, "what shows nothing for the class is 0"
        last = [each for each in sample["regions"]["detections"] if each["layer"] == "layer4"]
        assert len(last) == len(result["masks"])
        for detection, whole in zip(last, result["masks"], strict=True):
            left, top, wide, high = detection["bounding_box"]
            mask = unpacked(detection["mask"])
            assert mask.dtype == np.bool_
            assert mask.shape == (round(high * height), round(wide * width))
            assert (whole[round(top * height) :, round(left * width) :][: mask.shape[0], : mask.shape[1]] == mask).all()
            assert mask.sum() == whole.sum()


# -- from a server ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_gives_the_same(folder: Path, tmp_path: Path) -> None:
    here = exported("coco", folder, tmp_path / "here.json", "--masks", "--target", "top-2", "--threshold", "0.4")
    with running_server("--log-level", "error") as server:
        flags = ("--masks", "--target", "top-2", "--threshold", "0.4", "--server", server.url)
        there = exported("coco", folder, tmp_path / "there.json", *flags)
        named = exported("coco", folder, tmp_path / "named.json", *flags, "--model", "shapes")
        other = exported("coco", folder, tmp_path / "other.json", *flags, "--model", "shapes-shortcut")
        wrong = run(
            "export", "coco", folder, "--out", tmp_path / "x.json", "--server", server.url, "--layer", "layer44"
        )
        two = ("--model", "shapes", "--model", "shapes-shortcut")
        many = run("export", "coco", folder, "--out", tmp_path / "x.json", "--server", server.url, *two)
    for answer in (there, named):
        assert {key: answer[key] for key in ("info", "categories", "images")} == {
            key: here[key] for key in ("info", "categories", "images")
        }
        for one, same in zip(answer["annotations"], here["annotations"], strict=True):
            assert (one["image_id"], one["category_id"]) == (same["image_id"], same["category_id"])
            assert one["score"] == pytest.approx(same["score"], abs=1e-5)
            differ = decoded(one["segmentation"]) != decoded(same["segmentation"])
            assert differ.sum() <= 2, "in batches of other pictures, the last bits of a map are others"
    assert other["annotations"] != here["annotations"]
    assert (wrong.code, "layer4" in wrong.err) == (1, True)
    assert (many.code, "--model once" in many.err) == (1, True)
    gone = run("export", "coco", folder, "--out", tmp_path / "y.json", "--server", server.url)
    assert gone.code == 1
    assert "No connection to" in gone.err


# -- an end, and going on ---------------------------------------------------------------------------------------------


def _limited(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> list[str]:
    """Let no more than so many pictures be asked for; return the names of those that are."""
    asked: list[str] = []
    real = pictures.explained

    async def counted(explainer: Any, request: Any, file: Path) -> Any:
        if limit is not None and len(asked) >= limit:
            return Unavailable("Enough.")
        asked.append(file.name)
        return await real(explainer, request, file)

    monkeypatch.setattr(asking, "explained", counted)
    return asked


def test_what_was_ended_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exported("coco", folder, tmp_path / "whole.json", *ALONE)
    out, journal = tmp_path / "coco.json", tmp_path / "coco.json.journal"
    flags = ("export", "coco", folder, "--out", out, *ALONE)
    with monkeypatch.context() as patch:
        asked = _limited(patch, 3)
        ended = run(*flags)
    assert (ended.code, len(asked)) == (1, 3)
    assert "Enough." in ended.err
    assert journal.is_file()
    assert not out.exists()
    with journal.open("ab") as file:
        file.write(b'{"record":{"file":"03-st')  # as the end of a process cuts it off
    with monkeypatch.context() as patch:
        again = _limited(patch, None)
        gone_on = run(*flags)
    assert "3 of 6 pictures are done" in gone_on.err
    assert len(again) == 3
    assert not set(again) & set(asked)
    assert f"{folder / 'bad.jpg'}: " in gone_on.err, "what failed before is named again"
    assert json.loads(out.read_text()) == whole
    assert not journal.exists()


def test_other_options_do_not_go_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("export", "coco", folder, "--out", tmp_path / "coco.json", "--max-batch-size", "2")
    with monkeypatch.context() as patch:
        _limited(patch, 3)
        run(*flags)
    before = (tmp_path / "coco.json.journal").read_bytes()
    for other, named in {
        ("--threshold", "0.3"): "threshold",
        ("--masks",): "shapes",
        ("--model", "shapes-shortcut"): "model",
    }.items():
        refused = run(*flags, *other)
        assert refused.code == 1
        assert f"other values of {named}" in refused.err
    assert (tmp_path / "coco.json.journal").read_bytes() == before


def test_a_file_that_changed_is_asked_for_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(folder, photos, symlinks=True)
    flags = ("export", "coco", photos, "--out", tmp_path / "coco.json", *ALONE)
    with monkeypatch.context() as patch:
        asked = _limited(patch, 2)
        run(*flags)
    assert asked == ["00-disk.png", "03-star.png"]
    shutil.copy(SAMPLES / "11-gear.png", photos / "00-disk.png")
    with monkeypatch.context() as patch:
        again = _limited(patch, None)
        run(*flags)
    assert "00-disk.png" in again
    assert "03-star.png" not in again
    images = json.loads((tmp_path / "coco.json").read_text())["images"]
    assert (images[0]["width"], images[0]["height"]) == WIDE


@pytest.mark.parametrize("content", [b"", b"\n", b"[]\n", b"no json\n", b'{"format":"coco"}\n{}\n', b"\xff\xfe\n"])
def test_a_journal_without_records_is_begun_anew(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    path.write_bytes(content)
    with Journal(path, {"format": "coco"}) as journal:
        assert not journal.has("a.png", (1, 2))
        journal.add(Record(file="a.png", width=3), (1, 2))
    with Journal(path, {"format": "coco"}) as journal:
        assert journal.has("a.png", (1, 2))
        assert not journal.has("a.png", (1, 3))
        assert [record.width for record in journal.records(["a.png"])] == [3]
    with pytest.raises(InvalidOption, match="other values of format"):
        Journal(path, {"format": "fiftyone"})


def test_two_exports_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "x.journal"
    with Journal(path, {"format": "coco"}) as journal:
        journal.add(Record(file="a.png"), (1, 2))
        before = path.read_bytes()
        with pytest.raises(InvalidOption, match="Another export is writing this file"):
            Journal(path, {"format": "coco"})
        assert path.read_bytes() == before
        journal.add(Record(file="b.png"), (1, 2))
        assert [each.file for each in journal.records(["b.png", "a.png"])] == ["b.png", "a.png"]
        journal.remove()
        with Journal(path, {"format": "fiftyone"}) as other:
            assert not other.has("a.png", (1, 2)), "what is removed holds nobody up"


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(40):
        with Image.open(SAMPLES / "03-star.png") as image:
            image.convert("RGB").resize((1200, 1200)).rotate(number).save(photos / f"{number:02}.jpg")
    flags = ["export", "coco", str(photos), "--masks", "--out", str(tmp_path / "coco.json"), *ALONE]
    journal = tmp_path / "coco.json.journal"
    environment = {**os.environ, "CAMSERVE_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "service.cli", *flags], env=environment)
    until = time.monotonic() + 120
    while time.monotonic() < until and not (journal.is_file() and journal.read_bytes().count(b"\n") > 4):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    done = journal.read_bytes().count(b"\n") - 1
    assert 0 < done < 40
    ran = run(*flags)
    assert ran.code == 0
    assert f"{done} of 40 pictures are done" in ran.err
    whole = run(*flags, "--out", str(tmp_path / "whole.json"))
    assert whole.code == 0
    assert (tmp_path / "coco.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def one(tmp_path: Path) -> Path:
    photos = tmp_path / "one"
    photos.mkdir()
    shutil.copy(SAMPLES / "03-star.png", photos)
    return photos


def test_mistakes_are_named(one: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for arguments, said in {
        ("coco", tmp_path / "nowhere"): "there is no folder",
        ("coco", one / "03-star.png"): "there is no folder",
        ("coco", tmp_path / "empty"): "there is no picture in",
        ("coco", one, "--out", tmp_path / "empty"): "it is a folder",
        ("fiftyone", one, "--out", tmp_path / "file"): "it is no folder",
        ("coco", one, "--layer", "layer44"): "There is no layer 'layer44'",
        ("coco", one, "--out", tmp_path / "file" / "x.json"): "File exists",
    }.items():
        ran = run("export", *arguments)
        assert ran.code == 1, arguments
        assert said in ran.err
    assert run("export", "voc", one).code == 2
    assert run("export", "coco", one, "--masks", "--boxes").code == 2


def test_one_good_picture_ends_well(one: Path, tmp_path: Path) -> None:
    ran = run("export", "coco", one, "--out", tmp_path / "deep" / "coco.json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"1 exported, 0 failed: {tmp_path / 'deep' / 'coco.json'}\n"
