from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidOption
from service.golden.recording import RecordedMap, RecordedModel, RecordedPicture, Recording, class_spec
from service.imaging.difference import draw_difference, moved

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def levels(*rows: list[int]) -> NDArray[np.uint8]:
    return np.array(rows, np.uint8)


class TestMoved:
    @pytest.mark.parametrize(
        ("before", "after", "share"),
        [
            ([255, 0], [0, 255], 1.0),
            ([100, 100], [255, 0], 0.5),  # (½, ½) and (1, 0)
            ([200, 100, 0], [100, 50, 0], 0.0),  # fainter, at the same places
            ([100, 50, 50], [50, 50, 100], 0.25),
            ([0, 0], [0, 0], 0.0),
            ([0, 0], [0, 1], 1.0),
            ([9, 0], [0, 0], 1.0),
        ],
    )
    def test_is_the_share_that_lies_elsewhere(self, before: list[int], after: list[int], share: float) -> None:
        assert moved(levels(before), levels(after)) == pytest.approx(share)

    def test_many_bright_pixels_do_not_overflow(self) -> None:
        white = np.full((64, 64), 255, np.uint8)
        assert moved(white, white) == 0.0

    def test_maps_of_two_shapes_have_no_difference(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 1\)"):
            moved(levels([1, 2]), levels([1], [2]))


class TestDrawn:
    def test_what_came_is_red_and_what_went_is_blue(self) -> None:
        grey = Image.new("RGB", (64, 32), (128, 128, 128))
        before, after = np.zeros((32, 64), np.uint8), np.zeros((32, 64), np.uint8)
        before[:, :16], after[:, 48:] = 255, 255
        sheet = np.asarray(draw_difference(grey, before, after, "turbo"))
        panel = sheet[-32:, 2 * 208 : 2 * 208 + 64].astype(int)  # (32, 64, 3)

        red, _, blue = panel[16, 60]
        assert red > blue + 100
        red, _, blue = panel[16, 4]
        assert blue > red + 100
        assert len(set(panel[16, 32])) == 1, "as grey as the picture"


class TestClasses:
    LABELS = ("cat", "dog", "owl", "dog")

    @pytest.mark.parametrize(("index", "label", "spec"), [(0, "cat", "#0"), (1, "dog", "#1"), (7, "owl", "#2")])
    def test_is_found_where_it_was_or_by_its_name(self, index: int, label: str, spec: str) -> None:
        assert class_spec(index, label, self.LABELS) == spec

    @pytest.mark.parametrize(("index", "label", "says"), [(0, "bat", "no class 'bat'"), (0, "dog", "several classes")])
    def test_one_that_is_gone_is_named(self, index: int, label: str, says: str) -> None:
        with pytest.raises(InvalidOption, match=says):
            class_spec(index, label, self.LABELS)


def recording() -> Recording:
    file = io.BytesIO()
    Image.fromarray(levels([0, 128], [255, 7])).save(file, "PNG")
    a_map = RecordedMap(
        layer="conv", method="gradcam", index=1, label="dog", png=base64.b64encode(file.getvalue()).decode()
    )
    picture = RecordedPicture(file="a/b.png", sha256="0", index=1, label="dog", probability=0.5, maps=[a_map])
    model = RecordedModel(name="pets", version="1", digest="2")
    return Recording(model=model, options={"layer": ["conv"]}, pictures=[picture])


class TestFile:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        recording().write(tmp_path / "new" / "golden.json")
        found = Recording.read(tmp_path / "new" / "golden.json")

        assert found == recording()
        assert found.pictures[0].maps[0].levels().tolist() == [[0, 128], [255, 7]]
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["golden.json"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "the file: Invalid JSON"),
            ("[]", "the file"),
            ('{"kind": "another"}', "kind"),
            ('{"kind": "camserve golden", "format": 2, "model": {}, "options": {}, "pictures": []}', "format"),
        ],
    )
    def test_another_file_is_refused_in_words(self, text: str, says: str, tmp_path: Path) -> None:
        (tmp_path / "golden.json").write_text(text)
        with pytest.raises(InvalidOption, match=rf"is no recording that this version reads \({says}.*Record it again"):
            Recording.read(tmp_path / "golden.json")
