"""Groups of maps: found where there are some, held against chance, and warned of by where they lie."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.evaluation.asked import Arm, Asked
from service.evaluation.findings import words_for
from service.evaluation.groups import Group, groups_of
from service.evaluation.outcome import outcome_of
from service.evaluation.pictures import truth_of_mask
from service.evaluation.run import Run
from service.imaging.difference import moved
from tests.evaluation.fakes import SIZE, Squares, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.pictures import Picture

SIDE = 16
CORNER, ELSEWHERE = 8, 16


def spot(x: int, y: int) -> NDArray[np.float32]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.asarray(np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 6), np.float32)


def spots(seed: int = 0) -> NDArray[np.float32]:
    """Eight maps of one corner, and sixteen that lie anywhere."""
    rng = np.random.default_rng(seed)
    cornered = [spot(1, 14) * rng.uniform(0.5, 2) for _ in range(CORNER)]
    return np.stack([*cornered, *(spot(*rng.integers(3, 13, 2).tolist()) for _ in range(ELSEWHERE))])


class TestGroups:
    def test_maps_of_one_place_are_a_group_beyond_chance(self) -> None:
        found = groups_of(spots(), 0)
        (cornered,) = [group for group in found if 0 in group.members]
        assert cornered.members == tuple(range(CORNER))
        assert cornered.alike == pytest.approx(1)
        assert cornered.beyond_chance
        assert cornered.beside_the_middle
        assert cornered.place == (1.5 / SIDE, 14.5 / SIDE)

    def test_each_map_is_in_one_group_and_the_largest_comes_first(self) -> None:
        found = groups_of(spots(), 0)
        assert sorted(member for group in found for member in group.members) == list(range(CORNER + ELSEWHERE))
        sizes = [len(group.members) for group in found]
        assert sizes == sorted(sizes, reverse=True)

    def test_what_maps_have_in_common_is_what_has_not_moved(self) -> None:
        maps = np.stack([spot(4, 4)] * 6 + [spot(6, 4)] * 6)
        (group,) = groups_of(np.concatenate([maps, maps]), 0)[:1]
        pairs = [1 - moved(maps[0], maps[6]), 1.0]
        assert min(pairs) <= group.alike <= max(pairs) + 1e-9

    def test_maps_that_lie_anywhere_are_as_alike_as_by_chance(self) -> None:
        rng = np.random.default_rng(3)
        maps = np.stack([np.roll(spot(8, 8), rng.integers(0, SIDE, 2), axis=(0, 1)) for _ in range(24)])
        assert sum(group.beyond_chance for group in groups_of(maps, 0)) <= 1

    def test_the_same_seed_says_the_same_and_brightness_nothing(self) -> None:
        one, two = groups_of(spots(), 4), groups_of(spots() * np.float32(1e-6), 4)
        assert [group.members for group in one] == [group.members for group in two]
        assert [group.chance for group in one] == [group.chance for group in two]

    def test_fewer_than_ten_are_not_grouped(self) -> None:
        assert groups_of(spots()[:9], 0) == []

    def test_a_map_that_is_the_same_everywhere_is_not_beside_the_middle(self) -> None:
        group = Group((0,), np.full((SIDE, SIDE), 1 / SIDE**2), 1.0, 1)
        assert group.from_middle == pytest.approx(1 / 3, abs=2e-3)
        assert not Group((0,), spot(8, 8).astype(np.float64), 1.0, 1).beside_the_middle


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ((0.1, 0.1), "in the top left corner"),
        ((0.9, 0.9), "in the bottom right corner"),
        ((0.5, 0.9), "at the bottom"),
        ((0.1, 0.5), "at the left"),
        ((0.5, 0.5), "in the middle"),
    ],
)
def test_a_place_has_words(place: tuple[float, float], words: str) -> None:
    assert words_for(place) == words


def cornered(number: int, marked: str) -> Picture:
    """A picture whose square is in the bottom left corner, and is marked there, in the opposite corner, or not."""
    shown = picture(number, marked="none")
    pixels, mask = np.full_like(shown.pixels, 20), np.zeros((SIZE, SIZE), bool)
    pixels[-8:, :8, number % 3] = 230
    mask[{"there": np.s_[-8:, :8], "opposite": np.s_[:8, -8:]}.get(marked, np.s_[:0])] = True
    truth = truth_of_mask(mask, shown.geometry)
    return replace(shown, pixels=pixels, truths={} if truth is None else {None: truth})


def warnings_of(pictures: Sequence[Picture]) -> list[str]:
    run = Run(Squares(), pictures, Asked((Arm("good", "gradcam"),), ("localisation",)))
    for _ in run.steps():
        pass
    return [each.text for each in outcome_of(run).findings if each.code == "shared_place"]


class TestWarning:
    def test_a_corner_that_several_share_is_warned_of_whatever_the_class(self) -> None:
        (text,) = warnings_of([picture(n, marked="none") for n in range(14)] + [cornered(n, "none") for n in range(6)])
        assert "in the bottom left corner" in text
        assert "'red' (2), 'green' (2), 'blue' (2)" in text
        assert "annotated" not in text

    def test_objects_that_are_marked_elsewhere_make_it_a_warning(self) -> None:
        (text,) = warnings_of([picture(n) for n in range(14)] + [cornered(n, "opposite") for n in range(6)])
        assert "outside the annotated object in 6 of the" in text

    def test_objects_that_stand_in_a_corner_are_none(self) -> None:
        assert warnings_of([picture(n) for n in range(14)] + [cornered(n, "there") for n in range(6)]) == []
