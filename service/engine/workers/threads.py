"""Threads of a worker: as few as compute, and the same one again and again.

OpenMP keeps a team for every thread that has computed. Where all teams together are more threads than there are cores,
its threads stop waiting for each other at the end of a loop and are put to sleep and woken each time: a pass that takes
68 ms took 82 in a thread that was not the first.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BatchThreads", "OneByOne"]


class BatchThreads:
    """Up to ``count`` threads. Work goes to the first that is free, and waits where none is; see the module."""

    def __init__(self, count: int, begin: Callable[[], None] = lambda: None) -> None:
        """Have none yet; each calls ``begin`` first."""
        self._begin = begin
        self._guard = threading.Lock()
        self._free = list(range(count))  # a heap
        self._threads: list[ThreadPoolExecutor] = []  # of one thread each
        self._waiting: deque[Callable[[], None]] = deque()
        self._own = threading.local()
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work``, which must not raise, in a thread; nothing is done after ``close``."""
        with self._guard:
            if self._closed:
                return
            if self._free:
                self._hand(heappop(self._free), work)
            else:
                self._waiting.append(work)

    def free(self) -> None:
        """Take the calling thread for free though its work has not returned yet: more may be on its way.

        Whoever is told of a result sends the next batch at once. It would find this thread busy, and go to another.
        """
        with self._guard:
            if self._closed or not self._own.busy:
                return
            self._own.busy = False
            if self._waiting:
                self._hand(self._own.number, self._waiting.popleft())
            else:
                heappush(self._free, self._own.number)

    def close(self) -> None:
        """Begin nothing more, and let threads end when their work returns."""
        with self._guard:
            self._closed = True
            for thread in self._threads:
                thread.shutdown(wait=False, cancel_futures=True)

    def _hand(self, number: int, work: Callable[[], None]) -> None:
        if number == len(self._threads):  # those before it have begun: the first that is free is taken
            self._threads.append(ThreadPoolExecutor(1, f"batch_{number}", self._begin))
        self._threads[number].submit(self._do, number, work)

    def _do(self, number: int, work: Callable[[], None]) -> None:
        self._own.number, self._own.busy = number, True
        work()
        self.free()


class OneByOne:
    """Does one piece of work after the other, in a thread that ends, its OpenMP team with it, when there is no more."""

    def __init__(self, name: str) -> None:
        self._guard = threading.Lock()
        self._name = name
        self._thread: ThreadPoolExecutor | None = None
        self._left = 0
        self._closed = False

    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work``, which must not raise, after what was submitted before; nothing is done after ``close``."""
        with self._guard:
            if self._closed:
                return
            self._left += 1
            self._thread = self._thread or ThreadPoolExecutor(1, self._name)
            self._thread.submit(self._do, work)

    def close(self) -> None:
        """Begin nothing that was submitted and has not begun."""
        with self._guard:
            self._closed = True
            if self._thread is not None:
                self._thread.shutdown(wait=False, cancel_futures=True)

    def _do(self, work: Callable[[], None]) -> None:
        work()
        with self._guard:
            self._left -= 1
            if not self._left and self._thread is not None:
                self._thread.shutdown(wait=False)
                self._thread = None
