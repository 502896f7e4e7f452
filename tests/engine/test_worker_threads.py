"""The threads of a worker: the same one again and again, more only where more is computed at once."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from service.engine.workers.threads import BatchThreads, OneByOne
from service.engine.workers.waiting import short_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Held:
    """Work that takes until it is let go, and knows its thread."""

    def __init__(self) -> None:
        self.begun, self.let_go, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.let_go.wait(60)
        self.ended.set()


@pytest.fixture
def threads() -> Iterator[BatchThreads]:
    made = BatchThreads(2)
    yield made
    made.close()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_thread_does_all_where_one_thing_is_done_at_a_time(threads: BatchThreads) -> None:
    used, done = set(), threading.Semaphore(0)

    def compute() -> None:
        used.add(threading.get_ident())
        threads.free()
        done.release()  # whoever hears of it sends the next at once

    for _ in range(50):
        threads.submit(compute)
        assert done.acquire(timeout=60)
    assert len(used) == 1


def test_more_threads_are_taken_only_while_the_first_is_busy(threads: BatchThreads) -> None:
    first, second, third = Held(), Held(), Held()
    for held in (first, second):
        threads.submit(held)
        assert held.begun.wait(60)
    assert first.thread is not second.thread
    threads.submit(third)
    assert not third.begun.wait(0.05), "there are two"
    first.let_go.set()
    assert third.begun.wait(60)
    assert third.thread is first.thread
    for held in (second, third):
        held.let_go.set()
        assert held.ended.wait(60)
    _until(lambda: sorted(threads._free) == [0, 1])
    fourth = Held()
    fourth.let_go.set()
    threads.submit(fourth)
    assert fourth.ended.wait(60)
    assert fourth.thread is first.thread, "the first one that is free"


def test_nothing_begins_after_the_end(threads: BatchThreads) -> None:
    running, waiting, late = Held(), Held(), Held()
    other = Held()
    for held in (running, other, waiting):
        threads.submit(held)
    assert running.begun.wait(60)
    threads.close()
    threads.submit(late)
    for held in (running, other):
        held.let_go.set()
    assert running.thread is not None
    running.thread.join(60)
    assert not running.thread.is_alive()
    assert not waiting.begun.is_set()
    assert not late.begun.is_set()


def test_what_loads_has_a_thread_that_ends_when_all_is_loaded() -> None:
    loads, order = OneByOne("load"), []
    held = Held()
    loads.submit(held)
    for number in range(3):
        loads.submit(lambda number=number: order.append(number))  # type: ignore[misc]
    assert held.begun.wait(60)
    assert not order
    held.let_go.set()
    assert held.thread is not None
    held.thread.join(60)
    assert order == [0, 1, 2]
    again = Held()
    again.let_go.set()
    loads.submit(again)
    assert again.ended.wait(60)
    assert again.thread is not held.thread


def test_what_has_not_begun_to_load_is_dropped_at_the_end() -> None:
    loads, held, waiting = OneByOne("load"), Held(), Held()
    loads.submit(held)
    loads.submit(waiting)
    assert held.begun.wait(60)
    loads.close()
    held.let_go.set()
    assert held.thread is not None
    held.thread.join(60)
    assert not waiting.begun.is_set()


def test_the_operator_says_how_threads_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    with short_waits():
        assert int(os.environ["GOMP_SPINCOUNT"]) > 0
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with short_waits():
        assert "GOMP_SPINCOUNT" not in os.environ
