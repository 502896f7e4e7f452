"""What a region covers, pixel by pixel: as much as the grey mask says, and no other region's part of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.areas import Area, area_of, levels_of
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
    inside = {(x, y) for x in range(20) for y in range(10) if area.covers(x + 0.5, y + 0.5)}
    assert inside == {(x, y) for x in range(4, 9) for y in range(3, 6)}
    assert not area.covers(-1, -1)


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
