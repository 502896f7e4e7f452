from __future__ import annotations

import pytest

from service.engine.admission import Admission
from service.errors import Overloaded


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_room_is_held_while_inside_and_given_back_even_after_an_error() -> None:
    admission = Admission(4, Clock())
    with admission.admit(3):
        assert admission.inside == 3
        with pytest.raises(Overloaded):
            admission.check(2)
        admission.check(1)
    with pytest.raises(KeyError), admission.admit(4):
        raise KeyError
    assert admission.inside == 0


def test_retry_after_follows_the_rate_of_departures() -> None:
    clock = Clock()
    admission = Admission(100, clock)
    for _ in range(10):  # one picture leaves per second
        with admission.admit(1):
            clock.now += 1
    with admission.admit(20):
        assert admission.retry_after_s() == 9  # half of 20 at 10 in 9 s
    with admission.admit(100), pytest.raises(Overloaded) as refused:
        admission.check()
    assert 1 <= refused.value.retry_after_s <= 30
    assert "100 of 100" in refused.value.message


def test_retry_after_follows_pictures_not_requests() -> None:
    clock = Clock()
    admission = Admission(100, clock)
    for _ in range(4):  # ten pictures leave per second, all at once
        with admission.admit(10):
            clock.now += 1
    with admission.admit(100):
        assert admission.retry_after_s() == 4  # half of 100 at 40 in 3 s


def test_without_experience_retry_after_is_a_second() -> None:
    assert Admission(1, Clock()).retry_after_s() == 1
