"""How much a run should take, and for how long: worked out with a clock that steps alone move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.evaluation import expected
from service.evaluation.asked import PURPOSES, Arm, Asked
from service.evaluation.expected import COST, Expected, TimeLeft, expected_passes
from service.evaluation.run import Found, Run
from tests.evaluation.fakes import Squares, picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from service.evaluation.asked import Purpose


class TestTimeLeft:
    def test_each_kind_goes_at_its_own_speed(self) -> None:
        time_left = TimeLeft()
        time_left.took("logits", 8, 2.0)
        time_left.took("road", 8, 40.0)
        time_left.took("road", 8, 24.0)
        assert time_left.of({"logits": 4, "road": 100}) == pytest.approx(4 * 0.25 + 100 * 4)

    def test_a_kind_that_nobody_has_seen_goes_at_that_of_predictions(self) -> None:
        time_left = TimeLeft()
        time_left.took("logits", 10, 5.0)
        time_left.took("road", 10, 25.0)
        assert time_left.of({"road": 10, "head": 2}) == pytest.approx(25 + 2 * 0.5)

    def test_or_at_that_of_all_where_none_is_predicted_any_more(self) -> None:
        time_left = TimeLeft()
        time_left.took("ends", 10, 5.0)
        time_left.took("road", 10, 25.0)
        assert time_left.of({"road": 10, "head": 2}) == pytest.approx(25 + 2 * 1.5)

    def test_while_the_most_is_of_kinds_that_nobody_has_seen_nothing_is_said(self) -> None:
        time_left = TimeLeft()
        assert time_left.of({"logits": 1}) is None
        time_left.took("logits", 8, 2.0)
        assert time_left.of({"logits": 49, "road": 51}) is None
        assert time_left.of({"logits": 50, "road": 50}) is not None

    def test_of_nothing_nothing_is_left(self) -> None:
        time_left = TimeLeft()
        time_left.took("logits", 8, 2.0)
        assert time_left.of({"logits": 0.0}) == 0


class TestExpected:
    def test_by_hand(self) -> None:
        """30 pictures, 12 candidates: a first round of 8, a second of 24 with 6, a last of 6 with the finalists."""
        road, insertion = COST["road"], COST["insertion_deletion"]
        asked = Expected(30, 0, 12, ["faithfulness"])
        found = asked.amounts()
        assert found["logits"] == 30
        assert found["maps"] == 150
        assert found["head"] == 5 * 8 * 3
        assert found["ends"] == 30 * 3
        assert found["road"] == (12 * 8 - 6 * 8 + 24 * (6 + 6 + 3) + 6 * 4) * road
        assert found["insertion_deletion"] == (24 * (6 + 3) + 6 * 4) * insertion
        assert sum(found.values()) == expected_passes(30, 0, 12, ["faithfulness"])

    def test_what_is_known_takes_the_place_of_what_was_guessed(self) -> None:
        found = Expected(30, 0, 12, ["faithfulness"], kept=7, finalists=2).amounts()
        assert found["insertion_deletion"] == (24 * (7 + 3) + 6 * 2) * COST["insertion_deletion"]
        assert Expected(30, 0, 12, ["class"], mosaics=77).amounts()["mosaic"] == 77

    def test_few_candidates_have_no_first_round(self) -> None:
        assert Expected(24, 0, 2, ["faithfulness"]).amounts()["road"] == 24 * (2 + 2 + 3) * COST["road"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(Squares):
    """Takes a tenth of a second for a picture."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.clock.now += 0.1 * len(pixels)
        return super().logits(pixels)


def timed(pictures: int, layers: Sequence[str], purposes: tuple[Purpose, ...]) -> list[tuple[float, float | None]]:
    """Run all of it; return after each step what time it is and how much is said to be left."""
    clock = Clock()
    arms = tuple(Arm(layer, "gradcam") for layer in layers)
    run = Run(Slow(clock), [picture(number) for number in range(pictures)], Asked(arms, purposes, 0), clock=clock)
    road = run._road

    def slow_road(who: str, picture: int) -> Found:
        clock.now += 5.0  # what fills the pixels is no work of the model
        return road(who, picture)

    run._road = slow_road  # type: ignore[method-assign]
    return [(clock.now, progress.left_s) for progress in run.steps()]


class TestRuns:
    @pytest.fixture(autouse=True)
    def short_rounds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a few pictures, so that all rounds are there."""
        for name, pictures in {"FIRST": 2, "SECOND": 4, "MOST": 6, "HEAD_PICTURES": 2}.items():
            monkeypatch.setattr(expected, name, pictures)

    def test_the_first_that_is_said_is_what_it_takes(self) -> None:
        """Though everything that was done until then is quick, and later rounds take fewer candidates further."""
        told = timed(5, ["good", "noisy"], ("faithfulness",))
        end = told[-1][0]
        now, left = next((now, left) for now, left in told if left is not None)
        assert now < 0.1 * end
        assert left == pytest.approx(end - now, rel=0.2)

    def test_it_is_never_far_from_the_truth(self) -> None:
        told = timed(5, ["good", "noisy"], tuple(PURPOSES))
        end = told[-1][0]
        known = [(now, left) for now, left in told if left is not None]
        assert len(known) > 0.9 * len(told)
        assert all(abs(left - (end - now)) <= 0.2 * end for now, left in known)
        assert known[-1][1] == 0

    def test_nothing_is_left_in_the_end_and_no_step_is_counted_twice(self) -> None:
        clock = Clock()
        asked = Asked((Arm("good", "gradcam"),), tuple(PURPOSES), 0)
        run = Run(Squares(), [picture(number) for number in range(4)], asked, clock=clock)
        *_, before, last = list(run.steps())
        assert before.done == last.done == last.total
