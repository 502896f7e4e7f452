"""What is marked on pictures: COCO files, masks, and how both come to the model's view."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidOption, ServiceError
from service.evaluation.annotations import class_named, mask_file, read_coco, read_mask, truths_of
from service.evaluation.gathering import Folder, without_masks
from service.evaluation.pictures import Samples, truth_of_boxes, truth_of_mask
from service.imaging.decode import DecodeLimits
from service.imaging.geometry import Geometry
from service.placement import Placement
from tests.evaluation.fakes import INFO, SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = DecodeLimits(10**7, 10**7, 1)
# A picture of 200 × 100, of which the model sees the middle 100 × 100 at 64 × 64.
CROPPED = Geometry(200, 100, 64, 64, 0.64, 0.64, 32.0, 0.0)


def coco(folder: Path, **changes: Any) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "red/a.png"}],
        "categories": [{"id": 1, "name": "Red"}, {"id": 2, "name": "lamp"}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "bbox": [4, 6, 8, 10]},
            {
                "image_id": 7,
                "category_id": 2,
                "bbox": [20, 20, 4, 4],
                "segmentation": [[20, 20, 24, 20, 24, 24, 20, 24]],
            },
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 30, 30], "iscrowd": 1},
        ],
        **changes,
    }
    file = folder / "boxes.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


class TestTruths:
    def test_a_mask_is_what_the_model_saw_of_it(self) -> None:
        mask = np.zeros((100, 200), bool)
        mask[10:30, 40:70] = True  # the view begins at column 50
        truth = truth_of_mask(mask, CROPPED)
        assert truth is not None
        assert truth.mask.shape == (100, 100)
        assert truth.boxes.tolist() == [[0, 10, 20, 30]]
        assert truth.tolerance == 15.0

    def test_the_tolerance_is_in_pixels_of_the_picture(self) -> None:
        large = Geometry(1600, 1600, 64, 64, 0.04, 0.04, 0.0, 0.0)
        truth = truth_of_boxes([(0, 0, 400, 400)], large)
        assert truth is not None
        assert truth.tolerance == pytest.approx(1.5)  # a sample is ten pixels
        assert truth.boxes.tolist() == [[0, 0, 40, 40]]

    def test_what_was_cropped_away_is_not_there(self) -> None:
        mask = np.zeros((100, 200), bool)
        mask[:, :40] = True
        assert truth_of_mask(mask, CROPPED) is None
        assert truth_of_boxes([(0, 0, 40, 100)], CROPPED) is None

    def test_a_map_is_read_where_the_mask_is(self) -> None:
        values = np.zeros((64, 64), np.float32)
        values[32:, :] = 1.0  # the lower half of the view
        read = Samples.of(CROPPED).read(values, Placement.stretched(64, 64, 64, 64), CROPPED)
        assert read.shape == (100, 100)
        assert read[:49].max() == 0
        assert read[51:].min() == 1


class TestCoco:
    def test_categories_that_are_classes_count_for_them_and_others_for_any(self, tmp_path: Path) -> None:
        marked = read_coco(coco(tmp_path))["red/a.png"]
        truths = truths_of(marked, Geometry(32, 32, 32, 32, 1.0, 1.0, 0.0, 0.0), INFO)
        assert set(truths) == {0, None}
        assert truths[0].boxes.tolist() == [[4, 6, 12, 16]]
        assert not truths[0].outlined
        assert truths[None].outlined
        assert truths[None].mask[22, 22]

    @pytest.mark.parametrize(
        "changes",
        [
            {"images": None},
            {"images": {"7": {}}},
            {"images": [{"file_name": "red/a.png"}]},
            {"images": [{"id": 7, "file_name": None}]},
            {"images": [{"id": [7], "file_name": "red/a.png"}]},
            {"annotations": None},
            {"categories": [None]},
        ],
    )
    def test_what_is_wrong_is_said(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidOption, match="is no COCO file: it needs 'images'"):
            read_coco(coco(tmp_path, **changes))

    @pytest.mark.parametrize(
        "annotation",
        [
            None,
            [7],
            {"image_id": 8, "bbox": [1, 2, 3, 4]},
            {"image_id": [7], "bbox": [1, 2, 3, 4]},
            {"image_id": 7},
            {"image_id": 7, "bbox": [1, 2, 3]},
            {"image_id": 7, "bbox": "none"},
            {"image_id": 7, "bbox": [1, 2, 3, float("nan")]},
            {"image_id": 7, "bbox": [1, 2, float("inf"), 4]},
            {"image_id": 7, "bbox": [1, 2, 3, 1e300]},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": [1]},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "segmentation": [1, 2, 3, 4, 5, 6]},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
            {"image_id": 7, "bbox": [1, 2, 3, 4], "segmentation": [[1, 2, 3, 4, 5, float("nan")]]},
        ],
    )
    def test_which_annotation_is_wrong_is_said(self, tmp_path: Path, annotation: Any) -> None:
        right = {"image_id": 7, "bbox": [1, 2, 3, 4]}
        with pytest.raises(InvalidOption, match=r"annotation 2 of 3 cannot be read: it needs an 'image_id'"):
            read_coco(coco(tmp_path, annotations=[right, annotation, right]))

    @pytest.mark.parametrize(
        "segmentation", [{"size": [64, 64], "counts": "PPm0"}, {"size": [64, 64], "counts": [9, 9]}, [], [[]], [[1, 2]]]
    )
    def test_the_box_counts_where_the_outline_is_no_polygon(self, tmp_path: Path, segmentation: Any) -> None:
        annotation = {"image_id": 7, "category_id": 1, "bbox": ["4", 6, 8, 10], "segmentation": segmentation}
        marked = read_coco(coco(tmp_path, annotations=[annotation]))["red/a.png"]
        assert marked.boxes == {"Red": [(4, 6, 12, 16)]}
        assert not any(marked.polygons.values())

    @pytest.mark.parametrize(("width", "height"), [(32, 24), (0, 0), (None, 24), ("32", "24")])
    def test_sizes_that_say_nothing_else_are_no_mistake(self, tmp_path: Path, width: Any, height: Any) -> None:
        images = [{"id": 7, "file_name": "red/a.png", "width": width, "height": height}]
        marked = read_coco(coco(tmp_path, images=images))["red/a.png"]
        assert truths_of(marked, Geometry(32, 24, 32, 24, 1.0, 1.0, 0.0, 0.0), INFO)

    def test_marks_of_a_picture_of_another_size_are_refused(self, tmp_path: Path) -> None:
        """Such as one on its side, or reduced since: they would lie elsewhere."""
        images = [{"id": 7, "file_name": "red/a.png", "width": 24, "height": 32}]
        marked = read_coco(coco(tmp_path, images=images))["red/a.png"]
        with pytest.raises(InvalidOption, match=r"on red/a.png is, .* in pixels of 24×32; the picture has 32×24"):
            truths_of(marked, Geometry(32, 24, 32, 24, 1.0, 1.0, 0.0, 0.0), INFO)

    def test_a_byte_order_mark_is_no_mistake(self, tmp_path: Path) -> None:
        file = coco(tmp_path)
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert set(read_coco(file)) == {"red/a.png"}

    def test_what_is_no_json(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("<xml/>", encoding="utf-8")
        with pytest.raises(InvalidOption, match="is no COCO file"):
            read_coco(tmp_path / "x.json")


class TestNames:
    @pytest.mark.parametrize(("name", "found"), [("red", 0), ("GREEN", 1), ("violet", None), ("2", None), ("#1", None)])
    def test_a_folder_is_a_class_by_its_label_alone(self, name: str, found: int | None) -> None:
        assert class_named(name, INFO) == found


class TestMasks:
    @pytest.fixture
    def saved(self, tmp_path: Path) -> Callable[[str, int], Path]:
        def save(name: str, size: int) -> Path:
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True, parents=True)
            pixels = np.zeros((size, size), np.uint8)
            pixels[:4] = 200
            Image.fromarray(pixels).save(file)
            return file

        return save

    def test_masks_may_lie_beside_their_pictures(self, tmp_path: Path, saved: Callable[[str, int], Path]) -> None:
        files = [saved("a.png", 8), saved("a.mask.png", 8), saved("b.png", 8)]
        assert without_masks(files, tmp_path) == [files[0], files[2]]
        assert mask_file(tmp_path, Path("a.png")) == files[1]
        assert without_masks(files, None) == files

    def test_a_mask_is_as_large_as_its_picture(self, saved: Callable[[str, int], Path]) -> None:
        geometry = Geometry(SIZE, SIZE, SIZE, SIZE, 1.0, 1.0, 0.0, 0.0)
        truth = read_mask(saved("m/a.png", SIZE), geometry, LIMITS)
        assert truth is not None
        assert truth.mask[:4].all()
        assert not truth.mask[4:].any()
        with pytest.raises(InvalidOption, match=f"has 8×8 pixels, its picture {SIZE}×{SIZE}"):
            read_mask(saved("m/b.png", 8), geometry, LIMITS)

    def test_one_of_numbers_or_dark_colours_is_refused(self, tmp_path: Path) -> None:
        geometry, pixels = Geometry(8, 8, 8, 8, 1.0, 1.0, 0.0, 0.0), np.zeros((8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "black.png")
        assert read_mask(tmp_path / "black.png", geometry, LIMITS) is None  # nothing is there
        pixels[2:4] = 1
        Image.fromarray(pixels).save(tmp_path / "ones.png")
        with pytest.raises(InvalidOption, match=r"its brightest pixel is 1 of 255\. Make objects white"):
            read_mask(tmp_path / "ones.png", geometry, LIMITS)

    def test_a_folder_is_read(self, tmp_path: Path, saved: Callable[[str, int], Path]) -> None:
        file = saved("pictures/red/a.png", SIZE)
        saved("masks/red/a.png", SIZE)
        folder = Folder(tmp_path / "pictures", INFO, LIMITS, masks=tmp_path / "masks")
        found = folder.picture(file)
        assert not isinstance(found, ServiceError)
        assert (found.name, found.named) == ("red/a.png", 0)
        assert found.truth(1) is found.truths[None]

    def test_a_picture_that_is_none_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(b"no picture")
        assert isinstance(Folder(tmp_path, INFO, LIMITS).picture(tmp_path / "a.png"), ServiceError)
        assert isinstance(Folder(tmp_path, INFO, LIMITS).picture(tmp_path / "b.png"), ServiceError)
