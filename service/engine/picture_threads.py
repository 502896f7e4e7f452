"""Threads that decode and draw: what a piece of work needs it gets at once, and nobody waits behind something large.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from service.engine.fair_shares import FairShares
from service.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["PictureThreads"]

# Work on fewer pixels is small: a tenth of a second at most. A header, which has none, costs as much as some pixels.
_SMALL_PIXELS = 4_000_000
_LEAST_AMOUNT = 20_000

# Workers and the event loop go first where all cores are busy: a batch whose threads wait for each other takes twice as
# long when one of them shares its core. Within a container it is so; against others, the container's share counts.
_NICENESS = 10


@dataclass(eq=False)
class _Piece:
    """Work that waits or runs; ``passed`` counts the pixels that went past it while it found no room."""

    work: Callable[[], Any]
    pixels: int
    client: str
    arrival: int
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    passed: int = 0

    @property
    def small(self) -> bool:
        return self.pixels <= _SMALL_PIXELS


class PictureThreads:
    """Runs work in threads. Belongs to one event loop, which alone may call it.

    A piece of work gets its thread and its room in one step, so that nothing is held while waiting for the other. Whose
    turn it is follows :class:`FairShares`, by pixels. Where the next one finds no room, smaller ones go past it until
    they had as many pixels as it needs itself. One thread more than ``count`` is there for small work alone.

    A thread cannot be stopped: work that has begun keeps its thread and its room to its end, even if nobody waits for
    it any more; work that has not is dropped. No thread keeps the process from ending.

    Args:
        count: threads for work of any size.
        room: pixels that may be worked on at once. What needs more by itself has all of it, alone.

    Attributes:
        used: pixels that are worked on.
    """

    def __init__(self, count: int, room: int) -> None:
        self._count, self._room = count, room
        self._shares: FairShares[str] = FairShares()
        self._arrivals = itertools.count()
        self._waiting: list[_Piece] = []
        self._running: set[_Piece] = set()
        self._begun: SimpleQueue[_Piece | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.used = 0

    def __len__(self) -> int:
        """Return how many pieces of work wait or run."""
        return len(self._waiting) + len(self._running)

    async def run(self, work: Callable[[], T], *, pixels: int = 0, client: str = "", weight: float = 1.0) -> T:
        """Do ``work`` in a thread and return its result, or raise its exception.

        Args:
            work: what to do.
            pixels: how many it works on.
            client: whose share it comes out of.
            weight: how large the client's share is.

        Raises:
            NotReady: these threads are closed.
        """
        if self._closed:
            raise _over()
        loop = asyncio.get_running_loop()
        piece = _Piece(work, min(pixels, self._room), client, next(self._arrivals), loop.create_future(), loop)
        self._waiting.append(piece)
        self._shares.join(client, weight)
        self._begin_what_fits()
        try:
            result: T = await piece.future
            return result
        finally:
            if piece.future.cancelled():
                self._drop_abandoned()

    def close(self) -> None:
        """Begin nothing more: what waits, or comes later, fails with NotReady."""
        self._closed = True
        for piece in self._waiting:
            if not piece.future.done():
                piece.future.set_exception(_over())
        self._waiting.clear()
        for _ in self._threads:
            self._begun.put(None)

    def _drop_abandoned(self) -> None:
        for piece in [each for each in self._waiting if each.future.done()]:
            self._take_out(piece)
        self._begin_what_fits()  # what is gone may have been in the way

    def _take_out(self, piece: _Piece) -> None:
        self._waiting.remove(piece)
        self._shares.leave(piece.client)

    def _begin_what_fits(self) -> None:
        while self._waiting and len(self._running) <= self._count:
            piece = self._next()
            if piece is None:
                return
            self._begin(piece)

    def _next(self) -> _Piece | None:
        """Choose the piece whose turn it is, of those that fit; None if none does."""
        large = sum(not each.small for each in self._running)
        blocked: _Piece | None = None
        for piece in self._heads():
            if not piece.small and large >= self._count:
                continue
            if self.used + piece.pixels > self._room:
                blocked = blocked or piece
                continue
            if blocked is not None:
                if blocked.passed >= blocked.pixels:
                    return None
                blocked.passed += max(piece.pixels, _LEAST_AMOUNT)
            return piece
        return None

    def _heads(self) -> list[_Piece]:
        """Return each client's first small and first large piece, in the order of their turns."""
        heads: dict[tuple[str, bool], _Piece] = {}
        for piece in self._waiting:  # in order of arrival
            heads.setdefault((piece.client, piece.small), piece)
        return sorted(heads.values(), key=lambda piece: (self._shares.rank(piece.client), piece.arrival))

    def _begin(self, piece: _Piece) -> None:
        self._shares.begin_turn(piece.client)
        self._shares.charge(piece.client, max(piece.pixels, _LEAST_AMOUNT))
        self._take_out(piece)
        self._running.add(piece)
        self.used += piece.pixels
        if len(self._threads) < len(self._running):
            # Daemons: an executor's threads are waited for at the end of the process, however long they take.
            thread = threading.Thread(target=_work, args=(self._begun, self._end), name="picture", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._begun.put(piece)

    def _end(self, piece: _Piece, result: object, error: BaseException | None) -> None:
        self._running.discard(piece)
        self.used -= piece.pixels
        if not piece.future.done():
            if error is None:
                piece.future.set_result(result)
            else:
                piece.future.set_exception(_raisable(error))
        self._begin_what_fits()


def _raisable(error: BaseException) -> BaseException:
    """Return what a future can carry: a StopIteration would end the coroutine that waits, and is refused by it."""
    if not isinstance(error, StopIteration):
        return error
    found = RuntimeError("work raised StopIteration")
    found.__cause__ = error
    return found


def _over() -> NotReady:
    return NotReady("The service is shutting down.", retry_after_s=5)


def _work(begun: SimpleQueue[_Piece | None], end: Callable[[_Piece, object, BaseException | None], None]) -> None:
    """Work through what was begun, in a thread of its own."""
    if sys.platform == "linux":  # where a thread has a niceness of its own
        with suppress(OSError):  # a sandbox that forbids it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    while (piece := begun.get()) is not None:
        result: object = None
        error: BaseException | None = None
        try:
            result = piece.work()
        except BaseException as raised:  # noqa: BLE001  # it belongs to whoever waits for it
            error = raised
        with suppress(RuntimeError):  # the loop has ended meanwhile
            piece.loop.call_soon_threadsafe(end, piece, result, error)
        del piece, result, error  # while the thread waits for more, nothing is held
