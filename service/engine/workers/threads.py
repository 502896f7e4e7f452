"""Threads of a worker: as few as compute, and the same one again and again.

OpenMP keeps a team for every thread that has computed. Where all teams together are more threads than there are cores,
its threads stop waiting for each other at the end of a loop and are put to sleep and woken each time: a pass that takes
68 ms took 82 in a thread that was not the first.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

import threading
from collections import deque
from heapq import heapify, heappop, heappush
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BatchThreads", "OneByOne"]


class BatchThreads:
    """Up to ``count`` threads. Work goes to the first that is free, and waits where none is; see the module.

    No thread keeps the process from ending.
    """

    def __init__(self, count: int) -> None:
        self._guard = threading.Lock()
        self._free = list(range(count))
        heapify(self._free)
        self._handed: list[SimpleQueue[Callable[[], None] | None]] = []
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
            if not self._own.busy:
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
            self._waiting.clear()
            for handed in self._handed:
                handed.put(None)

    def _hand(self, number: int, work: Callable[[], None]) -> None:
        if number == len(self._handed):  # those before it have begun: the first that is free is taken
            self._handed.append(SimpleQueue())
            threading.Thread(target=self._work, args=(number,), name=f"batch_{number}", daemon=True).start()
        self._handed[number].put(work)

    def _work(self, number: int) -> None:
        self._own.number = number
        while (work := self._handed[number].get()) is not None:
            self._own.busy = True
            work()
            del work  # while the thread waits for more, nothing is held
            self.free()


class OneByOne:
    """Does one piece of work after the other, in a thread that ends, its OpenMP team with it, when there is no more."""

    def __init__(self, name: str) -> None:
        self._guard = threading.Lock()
        self._name = name
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work``, which must not raise, after what was submitted before."""
        with self._guard:
            self._waiting.append(work)
            if not self._running:
                self._running = True
                threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Begin nothing that was submitted and has not begun."""
        with self._guard:
            self._waiting.clear()

    def _work(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work

    def _next(self) -> Callable[[], None] | None:
        with self._guard:
            if self._waiting:
                return self._waiting.popleft()
            self._running = False
            return None
