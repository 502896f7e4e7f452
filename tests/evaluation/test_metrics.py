"""The metrics against cases that are worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.evaluation.baselines import BASELINES, baseline, shifted
from service.evaluation.gates import at_border, correlation, is_dead
from service.evaluation.grid_pointing_game import laid_out, mosaics_of, share_in_cell
from service.evaluation.insertion_deletion import (
    STEPS,
    insertion_deletion,
    insertion_deletion_ends,
    insertion_deletion_inputs,
)
from service.evaluation.iou import ious
from service.evaluation.mass_inside import lift, mass_inside
from service.evaluation.max_box_acc import box_hits, boxes_of
from service.evaluation.pointing_game import accepted, pointing_game
from service.evaluation.pxap import BINS, average_precision, pixel_counts
from service.evaluation.ranking import ranks
from service.evaluation.road import SHARES, road_combined, road_inputs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mask_of(*pixels: tuple[int, int], size: tuple[int, int] = (9, 9)) -> NDArray[Any]:
    mask = np.zeros(size, bool)
    for row, column in pixels:
        mask[row, column] = True
    return mask


class TestPointingGame:
    def test_the_tolerance_is_strict(self) -> None:
        # From (4, 4): (0, 3) apart is 3, which is not below 3; (2, 2) apart is 2.83, which is.
        near = accepted(mask_of((4, 4)), 3.0)
        assert near[4, 6]
        assert not near[4, 7]
        assert near[2, 2]
        assert not near[1, 4]

    @pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.5, 4.0, 15.0])
    def test_it_is_what_torchrays_rule_says_of_every_point(self, tolerance: float) -> None:
        mask = np.random.default_rng(3).random((13, 17)) > 0.97
        rows, columns = np.indices(mask.shape)
        near = accepted(mask, tolerance)
        for v, u in np.ndindex(*mask.shape):
            disc = (rows - v) ** 2 + (columns - u) ** 2 < tolerance**2
            assert near[v, u] == (bool((mask & disc).any()) or bool(mask[v, u]))

    def test_each_tied_maximum_counts_for_its_share(self) -> None:
        evidence = np.zeros((9, 9))
        evidence[0, 0] = evidence[4, 4] = evidence[8, 8] = 2.0
        assert pointing_game(evidence, accepted(mask_of((4, 4)), 1.0)) == pytest.approx(1 / 3)

    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_a_map_that_is_the_same_everywhere_scores_as_chance(self, value: float) -> None:
        mask = mask_of((4, 4), (4, 5), (5, 4))
        assert pointing_game(np.full((9, 9), value), accepted(mask, 0.0)) == pytest.approx(3 / 81)


class TestMassInside:
    def test_by_hand(self) -> None:
        mask = mask_of((0, 0), size=(2, 2))
        share = mass_inside(np.array([[3.0, 1.0], [0.0, 0.0]]), mask)
        assert share == 0.75
        assert lift(share, mask) == 3.0

    def test_a_zero_map_scores_as_chance(self) -> None:
        mask = mask_of((0, 0), size=(2, 2))
        assert mass_inside(np.zeros((2, 2)), mask) == 0.25
        assert lift(0.25, mask) == 1.0


class TestIoU:
    def test_by_hand(self) -> None:
        evidence = np.array([[1.0, 0.5, 0.2, 0.0]])
        mask = np.array([[True, True, False, False]])
        # At least 0.1: three pixels, two of them on the object; at least 0.5: those two; at least 0.6: one of them.
        assert ious(evidence, mask, np.array([0.1, 0.5, 0.6])).tolist() == pytest.approx([2 / 3, 1.0, 0.5])

    def test_everything_is_above_the_thresholds_of_a_zero_map(self) -> None:
        assert ious(np.zeros((1, 4)), np.array([[True, False, False, False]]), np.array([0.5])).tolist() == [0.25]


class TestMaxBoxAcc:
    def test_boxes_are_those_of_the_pixels(self) -> None:
        values = np.zeros((6, 8))
        values[1:3, 2:5] = 1.0
        values[5, 7] = 1.0
        assert sorted(boxes_of(values > 0).tolist()) == [[2, 1, 5, 3], [7, 5, 8, 6]]

    def test_holes_have_boxes_too(self) -> None:
        values = np.ones((7, 7))
        values[2:5, 2:5] = 0.0
        assert [2, 2, 5, 5] in boxes_of(values > 0).tolist()

    def test_by_hand(self) -> None:
        evidence = np.zeros((10, 10))
        evidence[0:4, 0:4] = 1.0  # 16 pixels; the object has 8 of them: an overlap of 0.5
        hits = box_hits(evidence, np.array([[0.0, 0.0, 4.0, 2.0]]), np.array([0.5]))
        assert hits[:, 0].tolist() == [True, True, False]

    def test_the_best_box_counts_and_a_zero_map_has_none(self) -> None:
        evidence = np.zeros((10, 10))
        evidence[0, 0] = evidence[6:9, 6:9] = 1.0
        truth = np.array([[6.0, 6.0, 9.0, 9.0]])
        assert box_hits(evidence, truth).all()
        assert not box_hits(np.zeros((10, 10)), truth).any()


class TestPxAP:
    def test_a_perfect_map_has_one_and_a_flat_one_the_share_of_the_object(self) -> None:
        mask = mask_of((0, 0), size=(2, 5))
        assert average_precision(pixel_counts(mask.astype(float), mask)) == pytest.approx(1.0)
        assert average_precision(pixel_counts(np.zeros((2, 5)), mask)) == pytest.approx(0.1)

    def test_by_hand(self) -> None:
        # From the top: object, other, object. Recall rises by a half at precision 1 and by a half at 2/3.
        evidence, mask = np.array([[1.0, 0.6, 0.3, 0.0]]), np.array([[True, False, True, False]])
        assert average_precision(pixel_counts(evidence, mask)) == pytest.approx(0.5 + 0.5 * 2 / 3)

    def test_pictures_weigh_the_same_whatever_their_size(self) -> None:
        small, large = np.ones((2, 2), bool), np.ones((20, 20), bool)
        assert pixel_counts(small * 1.0, small).sum() == pixel_counts(large * 1.0, large).sum() == 1.0
        assert pixel_counts(small * 1.0, small).shape == (2, BINS)


class TestRanks:
    def test_the_hottest_is_first(self) -> None:
        found = ranks(np.array([[0.1, 0.9], [0.5, 0.2]]), np.random.default_rng(0))
        assert found.tolist() == [[3, 0], [1, 2]]

    def test_chance_decides_among_equals(self) -> None:
        evidence = np.zeros((4, 4))
        evidence[0, 0] = 1.0
        one, other = (ranks(evidence, np.random.default_rng(seed)) for seed in (0, 1))
        assert one[0, 0] == other[0, 0] == 0
        assert sorted(one.ravel()) == list(range(16))
        assert not np.array_equal(one, other)


class TestRoad:
    def test_by_hand(self) -> None:
        # Means: 0.05 with the hottest gone, 0.75 with the coldest gone; half of the difference is 0.35.
        assert road_combined(np.array([0.1, 0.1, 0.0, 0.0, 0.9, 0.9, 0.7, 0.5])) == pytest.approx(0.35)

    @pytest.mark.parametrize("share_that_is_hot", [1.0, 0.05])
    def test_as_many_pixels_go_as_were_asked_for_however_sparse_the_map_is(self, share_that_is_hot: float) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        evidence = np.where(rng.random((40, 40)) < share_that_is_hot, rng.random((40, 40)), 0.0)
        shown = road_inputs(pixels, evidence, rng)
        changed = (shown != pixels).any(axis=3).mean(axis=(1, 2))
        # A filled pixel is what it was by accident once in a few hundred.
        assert changed == pytest.approx([*SHARES, *SHARES], abs=0.02)

    def test_the_hottest_go_first_and_what_stays_is_untouched(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 1), dtype=np.uint8)
        evidence = np.arange(100.0).reshape(10, 10)
        shown = road_inputs(pixels, evidence, np.random.default_rng(1))
        assert np.array_equal(shown[0, :8], pixels[:8])  # the hottest fifth are the last two rows
        assert np.array_equal(shown[len(SHARES), 2:], pixels[2:])  # the coldest the first two


class TestInsertionDeletion:
    def test_by_hand(self) -> None:
        # Everything comes with the first step and goes with the first: areas 1 - 1/12 and 1/12.
        inserted, deleted = [1.0] * (STEPS - 1), [0.0] * (STEPS - 1)
        assert insertion_deletion(np.array([0.0, 0.0, 1.0]), np.array([*inserted, *deleted])) == pytest.approx(10 / 12)

    def test_what_is_shown(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        ends = insertion_deletion_ends(pixels, np.array([10.0, 20.0, 30.4]))
        assert np.array_equal(ends[2], pixels)
        assert (ends[1] == [10, 20, 30]).all()
        assert ends[0].std() < pixels.std()
        shown = insertion_deletion_inputs(ends, np.arange(144.0).reshape(12, 12), np.random.default_rng(0))
        assert len(shown) == 2 * (STEPS - 1)
        assert np.array_equal(shown[0][10:], pixels[10:])  # the hottest sixth are in
        assert np.array_equal(shown[0][:10], ends[0][:10])
        assert np.array_equal(shown[STEPS - 1][:10], pixels[:10])  # and are gone
        assert (shown[STEPS - 1][10:] == [10, 20, 30]).all()


class TestGridPointingGame:
    def test_the_share_of_a_cell(self) -> None:
        evidence = np.zeros((4, 4))
        evidence[0, 0], evidence[3, 3] = 3.0, 1.0
        assert [share_in_cell(evidence, cell) for cell in range(4)] == [0.75, 0, 0, 0.25]
        assert share_in_cell(np.zeros((4, 4)), 2) == 0.25

    def test_pictures_are_laid_row_by_row(self) -> None:
        cells = np.stack([np.full((2, 3, 1), value) for value in range(4)])
        assert laid_out(cells)[..., 0].tolist() == [[0, 0, 0, 1, 1, 1]] * 2 + [[2, 2, 2, 3, 3, 3]] * 2

    def test_each_picture_is_scored_and_only_where_its_class_stands_alone(self) -> None:
        classes = [0, 0, 0, 1, 1, 2, 3, 4, 4, 5]
        found = mosaics_of(classes, 2, np.random.default_rng(0))
        times = [0] * len(classes)
        for mosaic in found:
            shown = [classes[picture] for picture in mosaic.pictures]
            for cell in mosaic.scored:
                assert shown.count(shown[cell]) == 1
                times[mosaic.pictures[cell]] += 1
        assert min(times) >= 2
        assert len(found) <= len(classes)

    def test_two_classes_are_enough_and_one_is_not(self) -> None:
        assert mosaics_of([3, 3, 3, 3], 1, np.random.default_rng(0)) == []
        found = mosaics_of([0, 1], 1, np.random.default_rng(0))
        assert {mosaic.pictures[cell] for mosaic in found for cell in mosaic.scored} == {0, 1}


class TestBaselines:
    @pytest.mark.parametrize("name", BASELINES)
    def test_each_is_a_map_of_the_input_and_the_same_every_time(self, name: str) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        one, other = (baseline(name, pixels, np.random.default_rng(5)) for _ in range(2))
        assert one.shape == (20, 30)
        assert one.min() >= 0
        assert np.array_equal(one, other)

    def test_edges_are_where_the_picture_changes(self) -> None:
        pixels = np.zeros((8, 8, 1), np.uint8)
        pixels[:, 4:] = 100
        found = baseline("edges", pixels, np.random.default_rng(0))
        assert found[3].tolist() == [0, 0, 0, 400, 400, 0, 0, 0]  # Sobel's (1 + 2 + 1) times the step

    def test_a_shifted_map_has_the_same_values_elsewhere(self) -> None:
        evidence = np.zeros((16, 16))
        evidence[4, 4] = 1.0
        for seed in range(20):
            row, column = np.argwhere(shifted(evidence, np.random.default_rng(seed)) == 1)[0]
            assert 4 <= (row - 4) % 16 <= 12
            assert 4 <= (column - 4) % 16 <= 12


class TestGates:
    def test_dead_maps(self) -> None:
        assert is_dead(np.zeros((3, 3)))
        assert is_dead(np.full((3, 3), -1.0))
        assert is_dead(np.full((3, 3), 7.0))
        assert is_dead(np.ones((1, 1)))
        assert not is_dead(np.eye(3))

    def test_maps_in_the_border(self) -> None:
        values = np.zeros((6, 6))
        values[0] = 1.0
        assert at_border(values)
        values[3, 3] = 1.0
        assert not at_border(values)
        assert not at_border(np.eye(2))

    def test_correlation(self) -> None:
        assert correlation(np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]])) == pytest.approx(1.0)
        assert correlation(np.array([[1.0, 2.0]]), np.array([[4.0, 2.0]])) == pytest.approx(-1.0)
        assert correlation(np.ones((1, 2)), np.array([[4.0, 2.0]])) == 0.0
