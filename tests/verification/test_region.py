"""What is hidden, and where else the same shape is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.imaging.comparison import PlacedMap
from service.imaging.geometry import Geometry
from service.placement import AxisPlacement, Placement
from service.verification.hiding import blurred, feathered, hide
from service.verification.region import SHARE, View, elsewhere, hottest

if TYPE_CHECKING:
    from numpy.typing import NDArray

WHOLE = View(0, 0, 60, 80)


def stretched(values: NDArray[np.float32], view: View = WHOLE) -> PlacedMap:
    height, width = values.shape
    return PlacedMap(values, Placement.stretched(height, width, view.bottom, view.right))


@st.composite
def maps(draw: st.DrawFn) -> NDArray[np.float32]:
    """Maps of any size, some of them with few values, so that many cells are equal."""
    rows, columns, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 10**6))
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return np.round(values) if draw(st.booleans()) else values


class TestHottest:
    @given(maps())
    def test_never_more_than_the_share_and_never_cold(self, values: NDArray[np.float32]) -> None:
        hot = hottest(stretched(values), WHOLE)
        assert hot.shape == (60, 80)
        assert hot.sum() <= SHARE * hot.size
        assert hot.any() == bool((values > 0).any()) or not hot.any()

    def test_by_hand(self) -> None:
        """One cell of 10 by 10 pixels: it falls off to half of its height within half a cell on either side."""
        values = np.zeros((6, 8), np.float32)
        values[2, 3] = 5
        hot = hottest(stretched(values), WHOLE)
        rows, columns = np.nonzero(hot)
        assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((25, 35))
        assert hot[21:29, 31:39].sum() > 50
        assert not hot[:19].any()
        assert not hot[31:].any()

    def test_what_is_less_than_half_as_hot_is_not_important(self) -> None:
        values = np.full((60, 80), 0.49, np.float32)
        values[:4, :4] = 1
        assert hottest(stretched(values), WHOLE).sum() == 16

    def test_of_what_is_equally_hot_the_middle_comes_first(self) -> None:
        """One piece, not lines from the top."""
        values = np.zeros((60, 80), np.float32)
        values[10:50, 10:70] = 1
        hot = hottest(stretched(values), WHOLE)
        assert hot.sum() == int(SHARE * 60 * 80)
        assert hot[29:31, 39:41].all()
        for lines in (hot, hot.T):  # a disc: every line that it meets, it meets once
            assert all(np.abs(np.diff(line.astype(int))).sum() == 2 for line in lines if line.any())

    def test_it_lies_where_cells_look(self) -> None:
        """A layer that sees the picture mirrored."""
        values = np.zeros((6, 8), np.float32)
        values[0, 0] = 1
        mirrored = Placement(AxisPlacement(75, -10), AxisPlacement(5, 10))
        hot = hottest(PlacedMap(values, mirrored), WHOLE)
        assert hot[0, 79]
        assert not hot[0, 0]

    def test_padding_is_no_part_of_it(self) -> None:
        """A wide picture in the middle of a square."""
        view = View.of(Geometry(200, 100, 60, 60, 0.3, 0.3, 0, -15))
        assert (view.top, view.bottom, view.left, view.right) == (15, 45, 0, 60)
        hot = hottest(PlacedMap(np.ones((4, 4), np.float32) * [[0], [0], [0], [1]], _square(60)), view)
        assert hot.shape == (30, 60)


def _square(side: int) -> Placement:
    return Placement.stretched(4, 4, side, side)


class TestElsewhere:
    @given(maps(), st.integers(0, 10**6))
    def test_equal_in_area_elsewhere_and_no_two_alike(self, values: NDArray[np.float32], seed: int) -> None:
        hot = hottest(stretched(values), WHOLE)
        if not hot.any():
            return
        found = elsewhere(hot, seed)
        assert len(found) <= 19
        for index, other in enumerate(found):
            assert other.shape == hot.shape
            assert other.sum() == hot.sum()
            assert 2 * (other & hot).sum() < hot.sum()
            assert all((other & third).sum() < 0.9 * hot.sum() for third in found[:index])

    def test_each_is_one_place_among_equals(self) -> None:
        """None of the twenty shares half with any other, where there is room: a disc of a tenth of the view."""
        rows, columns = np.indices((60, 80))
        disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 60 * 80 * 0.1 / np.pi
        for seed in range(10):
            places = [disc, *elsewhere(disc, seed)]
            assert len(places) == 20
            shared = [(one & other).sum() for i, one in enumerate(places) for other in places[:i]]
            assert max(shared) < disc.sum() / 2

    @given(maps(), st.integers(0, 10**6))
    def test_what_is_hidden_is_as_much(self, values: NDArray[np.float32], seed: int) -> None:
        """With the soft edges, too, which are mirrored at the border."""
        hot = hottest(stretched(values), WHOLE)
        if hot.any():
            areas = [float(feathered(each).sum()) / 255 for each in (hot, *elsewhere(hot, seed))]
            assert areas == pytest.approx([areas[0]] * len(areas), rel=0.05, abs=3)

    def test_the_seed_says_where(self) -> None:
        hot = np.zeros((64, 64), np.bool_)
        hot[10:20, 30:40] = True
        one, again, other = (np.stack(elsewhere(hot, seed)) for seed in (1, 1, 2))
        assert len(one) == 19
        assert np.array_equal(one, again)
        assert not np.array_equal(one, other)

    def test_a_stripe_fits_in_few_places(self) -> None:
        """Moved along itself it is where it was, and few stripes of an eighth lie apart from it and each other."""
        hot = np.zeros((64, 64), np.bool_)
        hot[:8] = True
        assert len(elsewhere(hot, 0)) < 16


class TestHiding:
    @pytest.mark.parametrize("channels", [1, 2, 3, 5])
    def test_where_nothing_is_hidden_the_picture_is_as_it_was(self, channels: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (40, 50, channels), dtype=np.uint8)
        instead = blurred(pixels)
        assert instead.shape == pixels.shape
        opacity = np.zeros((40, 50), np.uint8)
        assert np.array_equal(hide(pixels, instead, opacity), pixels)
        assert np.array_equal(hide(pixels, instead, opacity + 255), instead)

    def test_half_and_half(self) -> None:
        pixels, instead = np.full((1, 2, 1), 10, np.uint8), np.full((1, 2, 1), 110, np.uint8)
        assert hide(pixels, instead, np.array([[51, 204]], np.uint8)).ravel().tolist() == [30, 90]

    def test_the_blur_is_a_gaussian_of_a_tenth_of_the_longer_side(self) -> None:
        """Computed by its formula, mirrored at the edges as well."""
        pixels = (np.indices((60, 100)).sum(0) % 40 < 20).astype(np.uint8)[..., None] * np.uint8(200)
        kernel = np.exp(-0.5 * (np.arange(-40, 41) / 10) ** 2)
        expected = np.pad(pixels[..., 0].astype(float), 40, mode="symmetric")
        for axis in (0, 1):
            expected = np.apply_along_axis(np.convolve, axis, expected, kernel / kernel.sum(), "valid")
        assert np.abs(blurred(pixels)[..., 0] - expected).max() < 6

    def test_a_blur_has_the_colour_of_the_picture_and_no_edge(self) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (224, 224, 3), dtype=np.uint8)
        assert np.ptp(blurred(pixels)) < 20
        assert blurred(pixels).mean() == pytest.approx(pixels.mean(), abs=2)

    def test_the_edge_is_soft_and_the_middle_is_hidden(self) -> None:
        hot = np.zeros((112, 112), np.bool_)
        hot[30:60, 30:60] = True
        opacity = feathered(hot)
        assert opacity[45, 45] == 255
        assert opacity[0, 0] == 0
        assert opacity[30, 45] == pytest.approx(255 / 2, abs=30)
