from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from service.imaging.geometry import Box, Geometry
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.imaging.regions import MAX_REGIONS, Region, regions_of
from service.placement import AxisPlacement, Placement
from service.vocabulary import Fitting

if TYPE_CHECKING:
    from numpy.typing import NDArray

# A 640×320 picture squashed onto 64×64: a map of 8×8 cells has cells of 80×40 picture pixels.
WIDE = geometry_for(PreprocessSpec("squash", 64, 64), 640, 320)


def regions_when_stretched(saliency: NDArray[Any], geometry: Geometry, threshold: float) -> list[Region]:
    height, width = saliency.shape
    placement = Placement.stretched(height, width, geometry.model_height, geometry.model_width)
    return regions_of(saliency, geometry, placement, threshold)


def test_a_flat_block_by_hand() -> None:
    # Rows 2–3, columns 2–4 are 1. At 0.5 the outline runs along the cells' edges: half-way between the centres.
    saliency = np.zeros((8, 8))
    saliency[2:4, 2:5] = 1
    (region,) = regions_when_stretched(saliency, WIDE, 0.5)
    assert (region.box.left, region.box.top, region.box.right, region.box.bottom) == pytest.approx(
        (160, 80, 400, 160), abs=0.5
    )
    assert region.score == pytest.approx(1)
    # 240 × 80 pixels, less what bilinear interpolation rounds off at the corners: per corner, with u, v in cells from
    # the corner of the block, 1 − the area where (½+u)(½+v) ≥ ½, which is ¼ − ∫(1 − ½/(½+u)) du = ½·ln 2 − ¼.
    corner = (0.5 * np.log(2) - 0.25) * 80 * 40
    assert region.area * 640 * 320 == pytest.approx(240 * 80 - 4 * corner, rel=0.01)
    xs, ys = zip(*region.polygon, strict=True)
    assert (min(xs), max(xs)) == pytest.approx((160, 400), abs=2)
    assert (min(ys), max(ys)) == pytest.approx((80, 160), abs=2)


def test_two_blobs_are_two_regions_the_stronger_first() -> None:
    saliency = np.zeros((8, 8))
    saliency[1, 1] = 0.8
    saliency[5, 6] = 1.0
    first, second = regions_when_stretched(saliency, WIDE, 0.5)
    assert first.score == pytest.approx(1.0)
    assert second.score == pytest.approx(0.8, abs=1e-6)
    # Along an axis through its centre a lone cell of value v falls to ½ at a distance of (1 − ½/v) cells.
    assert (first.box.left, first.box.right) == pytest.approx((520 - 40, 520 + 40), abs=0.5)
    assert (first.box.top, first.box.bottom) == pytest.approx((220 - 20, 220 + 20), abs=0.5)
    assert (second.box.left, second.box.right) == pytest.approx((120 - 30, 120 + 30), abs=0.5)
    assert (second.box.top, second.box.bottom) == pytest.approx((60 - 15, 60 + 15), abs=0.5)


def test_a_ring_has_a_hole_in_its_area_and_not_in_its_outline() -> None:
    saliency = np.zeros((8, 8))
    saliency[1:7, 1:7] = 1
    saliency[3:5, 3:5] = 0
    (region,) = regions_when_stretched(saliency, WIDE, 0.5)
    outline = shapely.Polygon(region.polygon)
    assert outline.contains(shapely.Point(320, 160))
    assert region.area < outline.area / (640 * 320) - 0.05


def test_a_threshold_of_0_is_the_whole_view() -> None:
    geometry = geometry_for(PreprocessSpec("crop", 224, 224, 256), 640, 480)
    saliency = np.zeros((7, 7))
    saliency[3, 3] = 1
    (region,) = regions_when_stretched(saliency, geometry, 0)
    view = geometry.view
    assert region.box == view
    assert region.area == pytest.approx(view.width * view.height / (640 * 480))
    assert len(region.polygon) == 4


def test_a_threshold_of_1_is_still_around_the_peak() -> None:
    saliency = np.zeros((8, 8))
    saliency[5, 6] = 1.0
    (region,) = regions_when_stretched(saliency, WIDE, 1)
    assert region.box.left < 520 < region.box.right
    assert region.box.top < 220 < region.box.bottom
    assert region.box.width < 1


def test_an_empty_map_has_no_regions() -> None:
    assert regions_when_stretched(np.zeros((7, 7)), WIDE, 0) == []


def test_a_flat_map_is_one_region() -> None:
    (region,) = regions_when_stretched(np.ones((7, 7)), WIDE, 1)
    assert region.box == Box(0, 0, 640, 320)
    assert region.area == pytest.approx(1)


def test_noise_gives_the_strongest_regions_in_bounded_time() -> None:
    saliency = np.random.default_rng(0).random((112, 112)) ** 4
    saliency /= saliency.max()
    began = time.thread_time()  # not the clock's, which goes on while others have the processor
    regions = regions_when_stretched(saliency, WIDE, 0.3)
    assert time.thread_time() - began < 3
    assert len(regions) == MAX_REGIONS
    assert regions[0].score == pytest.approx(1)
    assert [region.score for region in regions] == sorted((region.score for region in regions), reverse=True)


@given(
    st.sampled_from(["crop", "squash", "pad"]),
    *[st.integers(1, 900)] * 2,
    *[st.integers(1, 15)] * 2,
    st.floats(0, 1),
    st.integers(0, 1000),
)
@settings(deadline=None)
def test_regions_lie_in_the_view_and_hold_what_they_say(
    mode: Fitting, width: int, height: int, h: int, w: int, threshold: float, seed: int
) -> None:
    geometry = geometry_for(PreprocessSpec(mode, 64, 64, 70 if mode == "crop" else None), width, height)
    saliency = np.random.default_rng(seed).random((h, w)).round(1)
    if not saliency.max():
        return
    saliency /= saliency.max()
    view = geometry.view
    total = 0.0
    for region in regions_when_stretched(saliency, geometry, threshold):
        assert view.left <= region.box.left < region.box.right <= view.right
        assert view.top <= region.box.top < region.box.bottom <= view.bottom
        assert min(threshold, 0.999) - 1e-3 <= region.score <= 1
        assert len(region.polygon) >= 3
        assert len(set(region.polygon)) == len(region.polygon)
        for x, y in region.polygon:
            assert 0 <= x <= width
            assert 0 <= y <= height
        total += region.area
    assert total <= 1 + 1e-6


def test_a_region_lies_where_the_cells_look() -> None:
    # 4 × 4 cells centred at 0, 16, 32 and 48 of 64 model pixels. Row 1 and column 2 are 1: at 0.5 the outline runs half
    # a cell around (32, 16), and picture pixels are 10 × 5 model pixels wide and high.
    saliency = np.zeros((4, 4))
    saliency[1, 2] = 1
    placement = Placement(AxisPlacement(0, 16), AxisPlacement(0, 16))

    (region,) = regions_of(saliency, WIDE, placement, 0.5)

    edges = (region.box.left, region.box.top, region.box.right, region.box.bottom)
    assert edges == pytest.approx((240, 40, 400, 120), abs=0.5)


def test_a_mirrored_layers_region_is_turned_back() -> None:
    # Cells look at 56, 40, 24 and 8 of 64 model pixels from left to right.
    saliency = np.zeros((4, 4))
    saliency[0, 0] = 1
    placement = Placement(AxisPlacement(56, -16), AxisPlacement(8, 16))

    (region,) = regions_of(saliency, WIDE, placement, 0.5)

    assert (region.box.left, region.box.right) == pytest.approx((480, 640), abs=0.5)
    assert region.score == 1
