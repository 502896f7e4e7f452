"""Comparing what a network computes in two precisions: by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from service.models.info import SelfCheck
from service.models.self_check import Computed, compare, objection, worst

LOGITS = torch.tensor([[1.0, 4.0, 2.0]])
MAP = torch.tensor([[[0.0, 1.0], [2.0, 3.0]]])

GOOD = SelfCheck(24, "gradcam", 0.9991, 0.997, 1.0, 1.0, 0.01)


def check(maps: Tensor, others: Tensor, logits: Tensor = LOGITS, other_logits: Tensor = LOGITS) -> SelfCheck:
    return compare(Computed(logits, maps), Computed(other_logits, others), "gradcam")


def test_the_same_is_the_same() -> None:
    found = check(MAP, MAP)

    assert [found.correlation, found.lowest_correlation] == pytest.approx([1, 1])
    assert (found.pictures, found.same_cell, found.same_class, found.logits_apart) == (1, 1, 1, 0)
    assert objection(found) is None


class TestLogits:
    def test_the_distance_is_a_share_of_the_largest(self) -> None:
        found = compare(Computed(LOGITS), Computed(torch.tensor([[1.0, 3.9, 1.8]])), None)

        assert found.logits_apart == pytest.approx(0.2 / 4)
        assert (found.method, found.correlation, found.lowest_correlation, found.same_cell) == (None,) * 4

    def test_the_worst_picture_counts(self) -> None:
        both = torch.cat([LOGITS, LOGITS * 2])
        other = torch.tensor([[1.0, 4.0, 2.0], [2.0, 8.0, 5.0]])

        assert compare(Computed(both), Computed(other), None).logits_apart == pytest.approx(1 / 8)

    @pytest.mark.parametrize(("second", "same"), [(3.98, 1.0), (3.9, 0.0)])
    def test_classes_that_tie_in_float32_may_change_places(self, second: float, same: float) -> None:
        """The range is 3: a hundredth of it is 0.03."""
        logits, other = torch.tensor([[1.0, 4.0, second]]), torch.tensor([[1.0, 4.0, 4.1]])

        assert compare(Computed(logits), Computed(other), None).same_class == same

    def test_logits_of_zero_differ_by_much_from_others(self) -> None:
        assert compare(Computed(torch.zeros(1, 3)), Computed(LOGITS), None).logits_apart > 1


class TestMaps:
    def test_the_correlation_is_pearsons(self) -> None:
        """Of (0, 1, 2, 3) and (0, 2, 1, 3), both of mean 3/2: (9 - 1 - 1 + 9) / (9 + 1 + 1 + 9)."""
        found = check(MAP, torch.tensor([[[0.0, 2.0], [1.0, 3.0]]]))

        assert found.correlation == pytest.approx(16 / 20)
        assert found.same_cell == 1

    def test_what_is_drawn_is_compared(self) -> None:
        """Below zero nothing is drawn."""
        assert check(MAP - 1, (MAP - 1).clamp(min=0) - (MAP < 1).float() * 5).correlation == pytest.approx(1)

    def test_the_average_and_the_least_over_pictures(self) -> None:
        maps = torch.cat([MAP, MAP])
        others = torch.cat([MAP, torch.tensor([[[0.0, 2.0], [1.0, 3.0]]])])

        found = check(maps, others, torch.cat([LOGITS, LOGITS]), torch.cat([LOGITS, LOGITS]))
        assert [found.correlation, found.lowest_correlation] == pytest.approx([0.9, 0.8])

    def test_another_cell(self) -> None:
        assert check(MAP, MAP.flip(2)).same_cell == 0

    @pytest.mark.parametrize(("third", "same"), [(2.98, 1.0), (2.9, 0.0)])
    def test_cells_that_tie_in_float32_may_change_places(self, third: float, same: float) -> None:
        maps = torch.tensor([[[0.0, 1.0], [third, 3.0]]])

        assert check(maps, torch.tensor([[[0.0, 1.0], [3.1, 3.0]]])).same_cell == same

    def test_a_map_that_became_constant_correlates_with_nothing(self) -> None:
        assert check(MAP, torch.ones_like(MAP)).correlation == 0

    def test_a_map_of_zeros_is_not_correlated(self) -> None:
        found = check(torch.cat([MAP, -MAP]), torch.cat([MAP, -MAP]), *[torch.cat([LOGITS, LOGITS])] * 2)

        assert [found.correlation, found.same_cell] == pytest.approx([1, 1])

    def test_a_map_of_zeros_has_to_stay_one(self) -> None:
        found = check(torch.cat([MAP, -MAP]), torch.cat([MAP, MAP]), *[torch.cat([LOGITS, LOGITS])] * 2)

        assert [found.correlation, found.same_cell] == pytest.approx([1, 0.5])

    def test_flat_maps_alone_say_nothing(self) -> None:
        found = check(torch.ones_like(MAP), torch.ones_like(MAP))

        assert (found.correlation, found.lowest_correlation, found.same_cell) == (None, None, 1)


class TestObjection:
    def test_none(self) -> None:
        assert objection(GOOD) is None
        assert objection(replace(GOOD, method=None, correlation=None, lowest_correlation=None, same_cell=None)) is None

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"correlation": 0.9949}, "maps correlate to 0.9949 on average"),
            ({"correlation": float("nan")}, "maps correlate to nan"),
            ({"lowest_correlation": 0.5}, "one map correlates to 0.500"),
            ({"same_cell": 0.94}, "the strongest cell is the same for 94% of the maps only"),
            ({"same_class": 0.9}, "the best class is the same for 90% of the pictures only"),
            ({"logits_apart": 0.3}, "logits differ by 0.3 of the largest"),
            ({"logits_apart": float("nan")}, "logits differ by nan"),
            ({"correlation": None, "lowest_correlation": None}, "are flat"),
        ],
    )
    def test_each_figure(self, changed: dict[str, float | None], words: str) -> None:
        assert words in (objection(replace(GOOD, **changed)) or "")  # type: ignore[arg-type]


class TestWorst:
    def test_of_each_figure(self) -> None:
        other = replace(GOOD, correlation=0.99, same_cell=0.9, logits_apart=0.2)
        assert worst([GOOD, other]) == replace(GOOD, correlation=0.99, same_cell=0.9, logits_apart=0.2)

    def test_a_head_without_a_layer_is_judged_by_its_logits(self) -> None:
        bare = SelfCheck(24, None, None, None, None, 0.96, 0.04)
        assert worst([GOOD, bare]) == replace(GOOD, same_class=0.96, logits_apart=0.04)

    def test_a_head_with_flat_maps_alone_cannot_be_compared(self) -> None:
        assert worst([GOOD, replace(GOOD, correlation=None, lowest_correlation=None)]).correlation is None
