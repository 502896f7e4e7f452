"""Labels as FiftyOne's own package has them; neither they nor their serialisation needs its database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.client import Client
from service.client.fiftyone import add_explanations, field_names, labels_of
from tests.tools.conftest import NAMES, SAMPLES, Export
from tests.tools.packages import need

if TYPE_CHECKING:
    from pathlib import Path

fo = need("fiftyone")
importers = need("fiftyone.utils.data.importers")
np = need("numpy")
Image = need("PIL.Image")


def samples(*names: str, folder: Path = SAMPLES) -> list[Any]:
    return [fo.Sample(filepath=str(folder / name)) for name in names]


def whole(detection: Any, width: int, height: int) -> Any:
    """A detection's mask on the picture."""
    left, top, wide, high = detection.bounding_box
    mask = np.zeros((height, width), bool)
    rows, columns = detection.mask.shape
    assert (rows, columns) == (round(high * height), round(wide * width)), "one number for each pixel of the box"
    mask[round(top * height) :, round(left * width) :][:rows, :columns] = detection.mask
    return mask


def differing(one: Any, other: Any, width: int, height: int) -> int:
    """How many pixels the masks of two detections do not have in common."""
    return int((whole(one, width, height) != whole(other, width, height)).sum())


def levels_apart(one: Any, other: Any) -> int:
    """The most by which the grey levels of two maps differ: 1 where they were computed in batches of other pictures."""
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_labels_of_pictures(url: str) -> None:
    found = samples(*NAMES)
    with Client(url) as client:
        assert add_explanations(found, client, top_k=3) == {}
        for sample, name in zip(found, NAMES, strict=True):
            native = client.explain(SAMPLES / name, output=["mask", "regions"], image_format="png")
            assert isinstance(sample["prediction"], fo.Classification)
            assert sample["prediction"].label == native.label
            assert sample["prediction"].confidence == pytest.approx(native.predictions[0].probability, abs=1e-5)
            assert [each.label for each in sample["top_k"].classifications] == [p.label for p in native.predictions[:3]]
            assert isinstance(sample["heatmap"], fo.Heatmap)
            assert sample["heatmap"].range == [0, 255]
            grey = np.asarray(native.mask())
            assert sample["heatmap"].map.ndim == 2
            assert levels_apart(sample["heatmap"].map, grey) <= 1, "of the whole picture, not of the model's view"
            assert isinstance(sample["regions"], fo.Detections)
            together = np.zeros(grey.shape, bool)
            for detection in sample["regions"].detections:
                assert all(0 <= value <= 1 for value in detection.bounding_box)
                assert detection.label == native.label
                together |= whole(detection, grey.shape[1], grey.shape[0])
            assert (together != (grey >= 128)).sum() <= 2
            again = fo.Sample.from_dict(sample.to_dict())
            assert (again["heatmap"].map == sample["heatmap"].map).all(), "as the database keeps it"


def test_layers_methods_and_classes_have_fields_of_their_own(url: str) -> None:
    (sample,) = samples("03-star.png")
    options: Any = {"layer": ["layer3", "stem.0"], "method": ["gradcam", "gradcam++"], "target": "top-2"}
    with Client(url) as client:
        add_explanations([sample], client, prefix="shapes_", masks=False, **options)
    heatmaps = {name for name in sample.field_names if "heatmap" in name}
    begins = {
        f"shapes_heatmap_{layer}_{method}"
        for layer in ("layer3", "stem_0")
        for method in ("gradcam", "gradcamplusplus")
    }
    assert heatmaps == {f"{begin}{end}" for begin in begins for end in ("", "_2")}
    assert all(each.mask is None for each in sample["shapes_regions"].detections)
    assert {each["layer"] for each in sample["shapes_regions"].detections} <= {"layer3", "stem.0"}


def test_names_of_fields() -> None:
    assert field_names("heatmap", [("layer4", "gradcam")]) == ["heatmap"]
    assert field_names("heatmap", [("a.1", "gradcam"), ("a.2", "gradcam")]) == ["heatmap_a_1", "heatmap_a_2"]
    assert field_names("heatmap", [("a", "gradcam"), ("a", "hirescam")]) == ["heatmap_gradcam", "heatmap_hirescam"]
    assert field_names("heatmap", [("a", "gradcam")] * 3) == ["heatmap", "heatmap_2", "heatmap_3"]
    assert len(set(field_names("heatmap", [("a.b", "m"), ("a_b", "m"), ("a.b", "m")]))) == 3
    assert field_names("heatmap", []) == []


def test_pictures_that_cannot_be_read_are_told_and_the_others_have_labels(url: str, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "star.png").write_bytes((SAMPLES / "03-star.png").read_bytes())
    found = samples("bad.png", "star.png", "gone.png", folder=tmp_path)
    with Client(url) as client:
        failed = add_explanations(found, client)
    assert set(failed) == {str(tmp_path / "bad.png"), str(tmp_path / "gone.png")}
    assert found[1]["prediction"].label == "star"
    assert not found[0].has_field("prediction")


def test_what_is_wrong_with_all_is_raised(url: str) -> None:
    with Client(url) as client:
        with pytest.raises(Exception, match="no layer 'layer44'"):
            add_explanations(samples("03-star.png"), client, layer="layer44")
        with pytest.raises(TypeError, match="Leave out output"):
            add_explanations(samples("03-star.png"), client, output="map")
    with Client("http://127.0.0.1:9", retries=0) as client, pytest.raises(Exception, match="No connection"):
        add_explanations(samples("03-star.png"), client)


def test_an_answer_without_regions_has_no_labels(url: str) -> None:
    with Client(url) as client, pytest.raises(ValueError, match="has no"):
        labels_of(client.explain(SAMPLES / "03-star.png", output="heatmap"))


def test_an_exported_folder_is_read_by_fiftyone(url: str, photos: Path, export: Export) -> None:
    folder = export("fiftyone", "--masks", "--layer", "layer3", "--layer", "layer4")
    direct = samples(*NAMES, folder=photos)
    with Client(url) as client:
        add_explanations(direct, client, layer=["layer3", "layer4"])
    importer = importers.LegacyFiftyOneDatasetImporter(dataset_dir=str(folder))
    with importer:
        imported = list(importer)
    assert [sample.filepath for sample in imported] == [sample.filepath for sample in direct]
    for one, other in zip(imported, direct, strict=True):
        assert one["prediction"].label == other["prediction"].label
        assert one["prediction"].confidence == pytest.approx(other["prediction"].confidence, abs=1e-5)
        for field in ("heatmap_layer3", "heatmap_layer4"):
            assert isinstance(one[field], fo.Heatmap)
            assert levels_apart(one[field].map, other[field].map) <= 1
        assert len(one["regions"].detections) == len(other["regions"].detections)
        for here, there in zip(one["regions"].detections, other["regions"].detections, strict=True):
            assert here.bounding_box == pytest.approx(there.bounding_box, abs=0.02)
            with Image.open(one.filepath) as image:
                width, height = image.size
            assert differing(here, there, width, height) <= 2


def test_it_reads_the_coco_export(url: str, photos: Path, export: Export) -> None:
    coco = need("fiftyone.utils.coco")
    _, classes, _, images, annotations = coco.load_coco_detection_annotations(str(export("coco", "--masks")))
    direct = samples(*NAMES, folder=photos)
    with Client(url) as client:
        add_explanations(direct, client)
    by_name = {image["file_name"]: number for number, image in images.items()}
    for sample, name in zip(direct, NAMES, strict=True):
        width, height = (images[by_name[name]][side] for side in ("width", "height"))
        read = [
            each.to_detection((width, height), classes_map=dict(classes), load_segmentation=True)
            for each in annotations[by_name[name]]
        ]
        assert [each.label for each in read] == [each.label for each in sample["regions"].detections]
        for here, there in zip(read, sample["regions"].detections, strict=True):
            assert here.confidence == pytest.approx(there.confidence, abs=1e-5)
            assert differing(here, there, width, height) <= 2
