"""A bound on what is held at once, by those who can wait for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

__all__ = ["Held", "Room"]


class Room:
    """Room for so many pixels; who finds none waits, in order of arrival.

    Args:
        size: how many there is room for. What is larger by itself counts as so many: it has all the room, alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._turn = asyncio.Lock()  # first come, first served: small ones do not pass a large one for ever
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def hold(self, amount: int) -> AsyncIterator[Held]:
        """Wait for room and hold it for the length of the block."""
        amount = min(amount, self.size)
        async with self._turn:
            while self.used + amount > self.size:
                self._freed.clear()
                await self._freed.wait()
            self.used += amount
        held = Held(self, amount)
        try:
            yield held
        finally:
            held.leave()

    def free(self, amount: int) -> None:
        """Give back part of what is held."""
        self.used -= amount
        self._freed.set()


class Held:
    """What one holder has of a room.

    Attributes:
        amount: how much.
        work: what a thread does with it. A thread cannot be stopped: what it works on stays held until it is done, even
            if nobody waits for it any more.
    """

    def __init__(self, room: Room, amount: int) -> None:
        self._room, self.amount = room, amount
        self.work: Future[Any] | None = None

    def leave(self) -> None:
        """Give everything back, as soon as no thread works on it."""
        if self.work is None or self.work.cancel() or self.work.done():
            self.shrink_to(0)
        else:
            self.work.add_done_callback(partial(self._leave_later, asyncio.get_running_loop()))

    def _leave_later(self, loop: asyncio.AbstractEventLoop, _work: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self.shrink_to, 0)

    def shrink_to(self, amount: int) -> None:
        """Give back what goes beyond ``amount``."""
        if amount < self.amount:
            self._room.free(self.amount - amount)
            self.amount = amount
