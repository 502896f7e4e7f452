"""What a region covers, pixel by pixel: as much as the grey mask says, and no other region's part of it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from service.areas import Area, Clicks, area_of, levels_of, parts_at
from service.imaging.geometry import Geometry
from service.imaging.render import RenderSpec, render
from service.placement import Placement


def file_of(levels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    return buffer.getvalue()


def two_blobs() -> np.ndarray:
    """A map with two areas above a half, the first with a hole."""
    values = np.zeros((12, 24), np.float32)
    values[2:10, 2:10] = 1
    values[5:7, 5:7] = 0
    values[3:9, 16:21] = 0.8
    return values


@pytest.mark.parametrize("size", [(240, 120), (97, 61)])
def test_the_areas_of_a_map_are_its_mask_taken_apart(size: tuple[int, int]) -> None:
    width, height = size
    geometry = Geometry(width, height, 96, 48, 96 / width, 48 / height, 0, 0)
    spec = RenderSpec(("mask", "regions"), threshold=0.4)
    drawn = render(two_blobs(), geometry, spec, placement=Placement.stretched(12, 24, 48, 96))
    assert drawn.mask is not None
    assert drawn.regions is not None
    levels = levels_of(drawn.mask.data, width, height)
    areas = [area_of(levels, region.polygon, 0.4) for region in drawn.regions]
    assert len(areas) == 2
    masks = [area.on_picture(width, height) for area in areas if area is not None]
    together, reached = masks[0] | masks[1], levels >= 102
    assert not (masks[0] & masks[1]).any()
    assert not (together & ~reached).any(), "nothing below the threshold"
    assert (reached & ~together).sum() <= 2, "and all above it, but for what is less than a pixel wide"
    row, column = round(6 * height / 12), round(6 * width / 24)
    assert not masks[0][row, column], "the hole is one"


def test_an_area_knows_its_pixels() -> None:
    levels = np.zeros((10, 20), np.uint8)
    levels[3:6, 4:9] = 200
    area = area_of(levels, [(4, 3), (9, 3), (9, 6), (4, 6)], 0.5)
    assert area is not None
    assert (area.left, area.top, area.right, area.bottom, int(area.bits.sum())) == (4, 3, 8, 5, 15)
    assert (area.on_picture(20, 10) == (levels > 0)).all()


def test_another_area_is_not_part_of_it() -> None:
    levels = np.zeros((50, 100), np.uint8)
    levels[10:20, 10:20] = levels[10:20, 60:70] = 255
    area = area_of(levels, [(10, 10), (20, 10), (20, 20), (10, 20)], 0.5)
    assert area is not None
    assert (area.left, area.right) == (10, 19)


def test_where_nothing_reaches_the_threshold_there_is_none() -> None:
    assert area_of(np.full((8, 8), 100, np.uint8), [(1, 1), (6, 1), (6, 6)], 0.5) is None
    assert area_of(np.zeros((8, 8), np.uint8), [(1, 1), (6, 1), (6, 6)], 0.0) is None, "nor where the map is zero"


@pytest.mark.parametrize("polygon", [[(-3.0, -3.0), (12.0, -3.0), (12.0, 12.0)], [(0.0, 0.0), (8.0, 0.0), (0.0, 8.0)]])
def test_an_outline_at_the_edge_stays_inside(polygon: list[tuple[float, float]]) -> None:
    area = area_of(np.full((8, 8), 255, np.uint8), polygon, 0.5)
    assert area is not None
    assert min(area.left, area.top) >= 0
    assert max(area.right, area.bottom) <= 7


def test_a_smaller_mask_is_enlarged() -> None:
    levels = np.zeros((4, 8), np.uint8)
    levels[:, 4:] = 255
    large = levels_of(file_of(levels), 80, 40)
    assert large.shape == (40, 80)
    assert (large[:, 50:] == 255).all()
    assert (large[:, :30] == 0).all()
    assert (levels_of(file_of(levels), 8, 4) == levels).all()


def test_it_is_a_value() -> None:
    area = Area(1, 2, np.ones((1, 1), np.bool_))
    assert (area.right, area.bottom) == (1, 2)


# -- what hangs together, and what somebody pointed at ----------------------------------------------------------------


def drawn(*rows: str) -> Any:
    return np.array([[cell == "#" for cell in row] for row in rows])


SHAPE = drawn(
    "##..#",
    "#..##",
    "..#..",
    "##..#",
)


def at(x: int, y: int) -> Any:
    seeds = np.zeros(SHAPE.shape, np.bool_)
    seeds[y, x] = True
    return seeds


class TestParts:
    def test_the_part_at_a_place(self) -> None:
        assert (parts_at(SHAPE, at(0, 1)) == drawn("##...", "#....", ".....", ".....")).all()
        assert (parts_at(SHAPE, at(4, 0)) == drawn("....#", "...##", ".....", ".....")).all()

    def test_several_places(self) -> None:
        assert (parts_at(SHAPE, at(2, 2) | at(4, 3)) == drawn(".....", ".....", "..#..", "....#")).all()

    def test_a_place_outside(self) -> None:
        assert not parts_at(SHAPE, at(2, 0)).any()

    def test_nothing_at_all(self) -> None:
        assert not parts_at(np.zeros((3, 3), np.bool_), np.ones((3, 3), np.bool_)).any()

    @given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
    def test_it_is_what_one_can_walk_to(self, mask: Any, data: st.DataObject) -> None:
        row, column = (data.draw(st.integers(0, side - 1)) for side in mask.shape)
        seeds = np.zeros_like(mask)
        seeds[row, column] = True
        reached = seeds & mask
        while True:
            wider = reached.copy()
            wider[1:] |= reached[:-1]
            wider[:-1] |= reached[1:]
            wider[:, 1:] |= reached[:, :-1]
            wider[:, :-1] |= reached[:, 1:]
            wider &= mask
            if (wider == reached).all():
                break
            reached = wider
        assert (parts_at(mask, seeds) == reached).all()


class TestClicks:
    """Two areas, 200 and 100 high, with a bridge of 50 between them."""

    LEVELS = np.array([[200, 200, 50, 100, 100], [200, 200, 0, 100, 255]], np.uint8)
    OTHER = np.array([[0, 0, 255, 0, 0], [0, 0, 255, 0, 0]], np.uint8)

    def part(self, *wanted: tuple[float, float], threshold: float = 0.5, **more: Any) -> Any:
        return Clicks(wanted, **more).best_part([self.LEVELS, self.OTHER], threshold)

    def test_it_is_what_hangs_together_under_them(self) -> None:
        assert (self.part((0.5, 1.5)) == drawn("##...", "##...")).all()
        assert (self.part((0, 0), (4.9, 1.9)) == drawn("##...", "##..#")).all()
        assert (self.part((0, 0), threshold=0.1) == drawn("#####", "##.##")).all()

    def test_the_next_map_has_it_where_the_first_has_nothing(self) -> None:
        assert (self.part((2.5, 1.5)) == drawn("..#..", "..#..")).all()

    def test_where_none_has_it_begins_at_the_clicks(self) -> None:
        assert (self.part((3.5, 0.5)) == drawn("...##", "...##")).all()
        assert (Clicks([(2.5, 0.5), (3.5, 0.5)]).best_part([self.LEVELS], 0.9) == drawn("#####", "##.##")).all()

    def test_clicks_on_nothing_and_beside_the_picture(self) -> None:
        for wanted in ([(2.5, 1.5)], [(-1.0, 0.0)], [(5.0, 0.0)], [(0.0, 2.0)], []):
            assert not Clicks(wanted).best_part([self.LEVELS], 0.5).any()

    def test_a_box_and_unwanted_clicks_cut(self) -> None:
        assert (self.part((0.5, 0.5), box=(0, 0, 1, 9)) == drawn("#....", "#....")).all()
        assert (self.part((0.5, 0.5), threshold=0.1, unwanted=[(4.5, 0.5)]) == drawn("###..", "##...")).all()
        assert not self.part((0.5, 0.5), box=(3, 0, 5, 2)).any(), "a click outside the box"

    def test_what_is_cut_apart_does_not_come_back(self) -> None:
        row = np.full((1, 9), 255, np.uint8)
        cut = Clicks([(0.5, 0.5)], [(4.5, 0.5)]).best_part([row], 0.5)
        assert (cut == drawn("###......")).all(), "behind what is not meant, there is nothing that hangs together"

    def test_large_pictures_are_cut_as_small_ones(self) -> None:
        large = np.full((1000, 3), 9, np.uint8)
        cut = Clicks([(1.5, 100.5)], [(1.5, 900.5)]).part(large, Clicks([(1.5, 100.5)]).pixels((1000, 3)), 1)
        assert cut[:501].all()
        assert not cut[501:].any()
