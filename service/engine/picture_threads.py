"""Threads that decode and draw: what a piece of work needs it gets at once, and nobody waits behind something large.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from service.engine.fair_shares import FairShares
from service.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["PictureThreads"]

# Work on fewer pixels is small: a tenth of a second at most. So many have room beside all large work. A header, which
# has none, costs as much as some pixels.
_SMALL_PIXELS = 4_000_000
_LEAST_AMOUNT = 20_000

# Workers and the event loop go first where all cores are busy: a batch whose threads wait for each other takes twice as
# long when one of them shares its core. Within a container it is so; against others, the container's share counts.
# A client's only piece of small work does not go behind them: it takes milliseconds, and somebody waits for it.
_NICENESS = 10  # more than that of the process


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


_End = Callable[[_Piece, object, BaseException | None], None]


class PictureThreads:
    """Runs work in threads. Belongs to one event loop, which alone may call it.

    A piece of work gets its thread and its room in one step, so that nothing is held while waiting for the other. Whose
    turn it is follows :class:`FairShares`, by pixels. Where the next one finds no room, smaller ones go past it until
    they had as many pixels as it needs itself. One piece more than ``count`` may run if it is small, and small ones
    have some room of their own. One piece at a time, small and its client's only one, has the priority of the event
    loop; the others go behind workers.

    A thread cannot be stopped: work that has begun keeps its thread and its room to its end, even if nobody waits for
    it any more; work that has not is dropped. No thread keeps the process from ending.

    Args:
        count: threads for work of any size.
        room: pixels that may be worked on at once, beside a few million of small work. What needs more by itself has
            all of it, alone.
    """

    def __init__(self, count: int, room: int) -> None:
        self._count, self._room = count, room
        self._shares: FairShares[str] = FairShares()
        self._arrivals = itertools.count()
        self._waiting: list[_Piece] = []
        self._running: set[_Piece] = set()
        self._aside: set[_Piece] = set()  # those of them that are in the room of small work
        self._first, self._behind = _Threads(self._end, 0), _Threads(self._end, _NICENESS)
        self._closed = False

    @property
    def used(self) -> int:
        """Return how many pixels are worked on."""
        return _pixels(self._running)

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
        self._first.close()
        self._behind.close()

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
            if self._fits_aside(piece):
                return piece
            if _pixels(self._running - self._aside) + piece.pixels > self._room:
                blocked = blocked or piece
                continue
            if blocked is not None:
                if blocked.passed >= blocked.pixels:
                    return None
                blocked.passed += max(piece.pixels, _LEAST_AMOUNT)
            return piece
        return None

    def _fits_aside(self, piece: _Piece) -> bool:
        return piece.small and _pixels(self._aside) + piece.pixels <= _SMALL_PIXELS

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
        (self._first if self._goes_first(piece) else self._behind).begin(piece)
        if self._fits_aside(piece):
            self._aside.add(piece)
        self._running.add(piece)

    def _goes_first(self, piece: _Piece) -> bool:
        """Whether somebody who asks for little waits for it."""
        its_clients = chain(self._running, self._waiting)
        return piece.small and not self._first.running and all(each.client != piece.client for each in its_clients)

    def _end(self, piece: _Piece, result: object, error: BaseException | None) -> None:
        self._running.discard(piece)
        self._aside.discard(piece)
        self._first.running.discard(piece)
        self._behind.running.discard(piece)
        if not piece.future.done():
            if error is None:
                piece.future.set_result(result)
            else:
                piece.future.set_exception(_raisable(error))
        self._begin_what_fits()


def _pixels(pieces: Iterable[_Piece]) -> int:
    return sum(each.pixels for each in pieces)


class _Threads:
    """Threads of one niceness, as many as there was work for at a time. Belongs to the loop of PictureThreads."""

    def __init__(self, end: _End, niceness: int) -> None:
        self.running: set[_Piece] = set()
        self._begun: SimpleQueue[_Piece | None] = SimpleQueue()
        self._started = 0
        self._arguments = self._begun, end, niceness

    def begin(self, piece: _Piece) -> None:
        """Work on a piece at once."""
        self.running.add(piece)
        if self._started < len(self.running):
            # Daemons: an executor's threads are waited for at the end of the process, however long they take.
            threading.Thread(target=_work, args=self._arguments, name="picture", daemon=True).start()
            self._started += 1
        self._begun.put(piece)

    def close(self) -> None:
        """Let the threads end when their work does."""
        for _ in range(self._started):
            self._begun.put(None)


def _raisable(error: BaseException) -> BaseException:
    """Return what a future can carry: a StopIteration would end the coroutine that waits, and is refused by it."""
    if not isinstance(error, StopIteration):
        return error
    found = RuntimeError("work raised StopIteration")
    found.__cause__ = error
    return found


def _over() -> NotReady:
    return NotReady("The service is shutting down.", retry_after_s=5)


def _work(begun: SimpleQueue[_Piece | None], end: _End, niceness: int) -> None:
    """Work through what was begun, in a thread of its own."""
    if niceness and sys.platform == "linux":  # where a thread has a niceness of its own
        own = threading.get_native_id()
        with suppress(OSError):  # a sandbox that forbids it
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + niceness)
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
