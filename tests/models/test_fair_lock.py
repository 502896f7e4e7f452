from __future__ import annotations

import threading

import pytest

from service.models.fair_lock import Turns

WAIT_S = 10.0


class Visitor:
    """A thread that takes a turn, and writes down when."""

    def __init__(self, turns: Turns, name: str, log: list[str]) -> None:
        self._turns, self._name, self._log = turns, name, log
        self.thread = threading.Thread(target=self._visit)
        self.thread.start()

    def _visit(self) -> None:
        with self._turns:
            self._log.append(self._name)


def wait_for(turns: Turns, waiting: int) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if len(turns._waiting) == waiting:
            return
        deadline.wait(WAIT_S / 1000)
    raise AssertionError(f"{len(turns._waiting)} wait, not {waiting}")


def test_turns_are_taken_in_order_of_arrival() -> None:
    turns, log = Turns(), list[str]()
    visitors = []
    with turns:
        for number, name in enumerate("abcde"):
            visitors.append(Visitor(turns, name, log))
            wait_for(turns, number + 1)
        assert log == []
    for visitor in visitors:
        visitor.thread.join(WAIT_S)
    assert log == list("abcde")


def test_a_holder_that_gives_way_lets_all_go_first_who_wait() -> None:
    turns, log = Turns(), list[str]()
    with turns:
        turns.give_way()  # nobody waits: nothing happens
        visitors = [Visitor(turns, name, log) for name in "ab"]
        wait_for(turns, 2)
        turns.give_way()
        assert sorted(log) == ["a", "b"]
        log.append("holder")
    for visitor in visitors:
        visitor.thread.join(WAIT_S)
    assert log[-1] == "holder"


def test_an_exception_passes_the_turn_on() -> None:
    turns = Turns()
    with pytest.raises(KeyError), turns:
        raise KeyError
    with turns:
        pass


def test_never_two_at_once() -> None:
    turns = Turns()
    inside: list[int] = []
    overlaps: list[int] = []

    def work() -> None:
        for _ in range(200):
            with turns:
                inside.append(1)
                overlaps.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert set(overlaps) == {1}
