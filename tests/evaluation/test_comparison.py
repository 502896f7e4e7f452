"""Two models on the same pictures: how far maps moved, whether answers stayed, what scores differ."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from service.evaluation.asked import Arm, Asked
from service.evaluation.comparison import Comparison, levels_at
from service.evaluation.outcome import outcome_of
from service.evaluation.report import report_of
from service.evaluation.run import Run
from tests.evaluation.fakes import INFO, SIZE, Squares, picture
from tests.evaluation.test_run import _Links

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.outcome import Outcome

COUNT = 12


class Elsewhere(Squares):
    """Answers as ``Squares`` does, and looks at the opposite side of even pictures; it takes one for another class."""

    def __init__(self) -> None:
        super().__init__()
        self.info = replace(INFO, name="elsewhere")

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = super().logits(pixels)
        return np.where(_is(pixels, 1)[:, None], np.roll(found, 1, axis=1), found)

    def maps(
        self, pixels: NDArray[np.uint8], classes: Sequence[Sequence[int]], arms: Sequence[Arm]
    ) -> list[NDArray[np.float32]]:
        shift = np.array([any(bool(_is(row[None], n)[0]) for n in range(0, COUNT, 2)) for row in pixels])
        found = super().maps(pixels, classes, arms)
        return [np.where(shift[:, None, None, None], np.roll(each, (4, 4), axis=(2, 3)), each) for each in found]


def _is(pixels: NDArray[np.uint8], number: int) -> NDArray[np.bool_]:
    wanted = picture(number).pixels
    return np.array([row.shape == wanted.shape and bool((row == wanted).all()) for row in pixels])


def outcome(subject: Squares, *layers: str) -> Outcome:
    arms = tuple(Arm(layer, "gradcam") for layer in layers or ("good",))
    run = Run(subject, [picture(number) for number in range(COUNT)], Asked(arms, ("localisation",)))
    for _ in run.steps():
        pass
    return outcome_of(run)


@pytest.fixture(scope="module")
def found() -> Comparison:
    return Comparison(outcome(Squares()), outcome(Elsewhere()))


class TestShifts:
    def test_maps_that_moved_while_the_answer_stayed_come_first(self, found: Comparison) -> None:
        numbers = [each.picture for each in found.shifts]
        assert sorted(numbers[:6]) == [0, 2, 4, 6, 8, 10]
        assert numbers[-1] == 1
        assert not found.shifts[-1].same_answer
        assert [each.same_answer for each in found.shifts[:-1]] == [True] * (COUNT - 1)

    def test_moved_is_the_share_of_the_mass(self, found: Comparison) -> None:
        shares = {each.picture: each.moved for each in found.shifts}
        assert min(shares[number] for number in range(0, COUNT, 2)) > 0.8
        assert max(shares[number] for number in range(3, COUNT, 2)) == 0

    def test_maps_lie_on_the_picture_where_the_model_looked(self, found: Comparison) -> None:
        run = found.first.run
        places = np.linspace(0.5, SIZE - 0.5, SIZE, dtype=np.float64)
        whole = levels_at(run, 0, 0, places, places)
        square = run.pictures[0].truths[None].mask
        assert whole.max() == 255
        assert square[np.unravel_index(int(whole.argmax()), whole.shape)]
        beyond = levels_at(run, 0, 0, np.array([-5.0, 16.0, SIZE + 5.0]), places)
        assert not beyond[:, [0, 2]].any()


class TestScores:
    def test_differences_are_of_the_same_pictures(self, found: Comparison) -> None:
        told = found.differences
        assert set(told) == set(found.first.scores.metrics)
        assert {"pointing_game", "mass_inside", "pxap"} <= set(told)
        for name in ("mass_inside", "pxap"):
            each = told[name]
            assert each.more.mean == pytest.approx(each.second.mean - each.first.mean), name
            assert each.more.low <= each.more.mean <= each.more.high < 0, name
            assert each.beyond_doubt
        assert told["pointing_game"].more.n == COUNT - 1, "the one that is taken for another class has no mark there"

    def test_the_same_model_differs_in_nothing(self, found: Comparison) -> None:
        same = Comparison(found.first, found.first)
        assert {each.moved for each in same.shifts} == {0.0}
        for each in same.differences.values():
            assert (each.more.mean, each.more.low, each.more.high) == (0, 0, 0)
            assert not each.beyond_doubt


class TestWhatIsCompared:
    def test_the_same_candidate_of_both(self, found: Comparison) -> None:
        assert found.arms == (0, 0)

    def test_or_that_which_stands_for_it(self) -> None:
        both = Comparison(outcome(Squares(), "same"), outcome(Squares(), "noisy", "good", "same"))
        assert both.arms == (0, 1)

    def test_or_each_one_its_own(self, found: Comparison) -> None:
        both = Comparison(found.first, outcome(Squares(), "branch", "noisy"))
        assert both.arms == (0, both.second.overview.arm)

    def test_models_of_one_name_are_told_apart(self, found: Comparison) -> None:
        assert found.names == ("squares", "elsewhere")
        again = Comparison(found.first, outcome(Squares()))
        assert again.names == ("squares 1 (first)", "squares 1 (second)")
        again = Comparison(found.first, again.second)
        again.second.run.subject.info = replace(INFO, version="2")  # type: ignore[misc]
        assert again.names == ("squares 1", "squares 2")


class TestWhatIsSaid:
    def test_json(self, found: Comparison) -> None:
        told = json.loads(json.dumps(found.as_json(), allow_nan=False))
        assert told["same_answer"] == COUNT - 1
        assert told["maps"] == [
            {"model": name, "layer": "good", "method": "gradcam"} for name in ("squares", "elsewhere")
        ]
        assert told["pictures"][0]["answers"][0]["label"] == told["pictures"][0]["answers"][1]["label"]
        assert set(told["metrics"]["mass_inside"]) == {"first", "second", "more"}
        assert told["second"]["model"]["name"] == "elsewhere"

    def test_the_report_has_a_part_for_it_and_needs_nothing_else(self, found: Comparison) -> None:
        text = report_of(found.first, 1.0, found)
        links = _Links()
        links.feed(text)
        assert all(link.startswith("data:image/jpeg;base64,") for link in links.found)
        for words in (
            "squares and elsewhere",
            f"The answer is the same on {COUNT - 1} of {COUNT} pictures",
            "The answer stayed, the map moved",
            "Another answer",
            "elsewhere by itself",
            "Where the maps of a class lie, in both",
        ):
            assert words in text
        assert "elsewhere by itself" not in report_of(found.first, 1.0)


def test_means_by_class_are_of_the_predicted_class(found: Comparison) -> None:
    means = found.first.overview.means
    assert [(each.label, each.pictures) for each in means] == [(n, tuple(range(n, COUNT, 3))) for n in range(3)]
    for each in means:
        assert each.values.sum() == pytest.approx(1)
        raw = [found.first.run.maps.raw(0, number) for number in each.pictures]
        assert each.values == pytest.approx(np.mean([values / values.sum() for values in raw], axis=0))


def test_dead_maps_are_counted_and_not_averaged() -> None:
    means = outcome(Squares(), "dead").overview.means
    assert [each.dead for each in means] == [COUNT // 3] * 3
    assert not any(each.values.any() for each in means)


def test_the_report_shows_disagreement_where_there_are_two_to_disagree() -> None:
    one, two = report_of(outcome(Squares(), "good")), report_of(outcome(Squares(), "noisy", "good"))
    assert "1 candidate on 12 pictures" in one
    assert "disagree" not in one
    assert "2 candidates on 12 pictures" in two
    assert "the maps disagree" in two
