from __future__ import annotations

import threading

import pytest

from service.models.fair_lock import FairLock

WAIT_S = 10.0


class Visitor:
    """A thread that takes the lock, and writes down when."""

    def __init__(self, lock: FairLock, name: str, log: list[str]) -> None:
        self._lock, self._name, self._log = lock, name, log
        self.thread = threading.Thread(target=self._visit)
        self.thread.start()

    def _visit(self) -> None:
        with self._lock:
            self._log.append(self._name)


def wait_for(lock: FairLock, waiting: int) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if len(lock._waiting) == waiting:
            return
        deadline.wait(WAIT_S / 1000)
    raise AssertionError(f"{len(lock._waiting)} wait, not {waiting}")


def test_it_is_taken_in_order_of_arrival() -> None:
    lock, log = FairLock(), list[str]()
    visitors = []
    with lock:
        for number, name in enumerate("abcde"):
            visitors.append(Visitor(lock, name, log))
            wait_for(lock, number + 1)
        assert log == []
    for visitor in visitors:
        visitor.thread.join(WAIT_S)
    assert log == list("abcde")


def test_a_holder_that_yields_lets_all_go_first_who_wait() -> None:
    lock, log = FairLock(), list[str]()
    with lock:
        lock.yield_to_waiting()  # nobody waits: nothing happens
        visitors = [Visitor(lock, name, log) for name in "ab"]
        wait_for(lock, 2)
        lock.yield_to_waiting()
        assert sorted(log) == ["a", "b"]
        log.append("holder")
    for visitor in visitors:
        visitor.thread.join(WAIT_S)
    assert log[-1] == "holder"


def test_an_exception_passes_the_lock_on() -> None:
    lock = FairLock()
    with pytest.raises(KeyError), lock:
        raise KeyError
    with lock:
        pass


def test_never_two_at_once() -> None:
    lock = FairLock()
    inside: list[int] = []
    overlaps: list[int] = []

    def work() -> None:
        for _ in range(200):
            with lock:
                inside.append(1)
                overlaps.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert set(overlaps) == {1}
