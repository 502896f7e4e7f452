from __future__ import annotations

import pytest

from service.engine.admission import Admission
from service.engine.cost import Cost
from service.errors import Overloaded

MOST = Cost(1000, 1_000_000, 1_000_000)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_room_is_held_while_inside_and_given_back_even_after_an_error() -> None:
    admission = Admission(4, MOST, Clock())
    with admission.admit(3):
        assert admission.inside == 3
        with pytest.raises(Overloaded):
            admission.check(2)
        admission.check(1)
    with pytest.raises(KeyError), admission.admit(4):
        raise KeyError
    assert admission.inside == 0


@pytest.mark.parametrize("cost", [Cost(500), Cost(pixels=500_000), Cost(bytes=500_000)])
def test_work_is_admitted_until_there_is_no_room_for_more(cost: Cost) -> None:
    admission = Admission(100, MOST, Clock())
    with admission.admit_work(cost, 1.0):
        with pytest.raises(Overloaded), admission.admit_work(cost, 1.0):
            pass
        assert admission.cost == cost
        with admission.admit_work(cost * 0.5, 1.0):
            assert admission.cost == cost + cost * 0.5
    assert admission.cost == Cost()


def test_a_fifth_of_the_room_is_for_small_requests() -> None:
    admission = Admission(100, MOST, Clock())
    with admission.admit_work(MOST * 0.75, 1.0):
        with pytest.raises(Overloaded), admission.admit_work(MOST * 0.1, 1.0):
            pass
        for _ in range(20):
            with admission.admit_work(MOST * 0.01, 1.0):
                pass


def test_what_is_more_than_all_room_is_let_in_alone() -> None:
    admission = Admission(100, MOST, Clock())
    with admission.admit_work(MOST * 2, 1.0), pytest.raises(Overloaded), admission.admit_work(Cost(1), 1.0):
        pass


def test_sums_of_fractions_leave_nothing_over() -> None:
    admission = Admission(100, MOST, Clock())
    for share in (0.1, 0.7, 0.3):
        with admission.admit_work(Cost(share), share), admission.admit_work(Cost(share / 3), share):
            pass
    assert admission.cost == Cost()


class TestRetryAfter:
    def test_follows_the_work_that_is_inside(self) -> None:
        admission = Admission(100, MOST, Clock())
        with admission.admit(20), admission.admit_work(Cost(500), 33.0):
            assert admission.retry_after_s() == 17  # half of it should be done by then
            with pytest.raises(Overloaded) as refused, admission.admit_work(Cost(500), 1.0):
                pass
        assert refused.value.retry_after_s == 17

    def test_is_no_shorter_than_nothing_has_moved(self) -> None:
        clock = Clock()
        admission = Admission(100, MOST, clock)
        with admission.admit(50), admission.admit_work(Cost(1), 2.0):
            clock.now = 40
            assert admission.retry_after_s() == 40
            with admission.admit(1):
                pass
            assert admission.retry_after_s() == 1, "one has left: it moves"

    def test_is_between_a_second_and_five_minutes(self) -> None:
        admission = Admission(1, MOST, Clock())
        assert admission.retry_after_s() == 1
        with admission.admit(1), admission.admit_work(Cost(1), 1e9), pytest.raises(Overloaded) as refused:
            admission.check()
        assert refused.value.retry_after_s == 300
        assert "1 of 1" in refused.value.message
