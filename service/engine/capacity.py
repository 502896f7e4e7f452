"""A bound on what is held at once, by those who can wait for it.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from concurrent.futures import Future

__all__ = ["CapacityLimiter", "Reservation"]


class CapacityLimiter:
    """Lets so many pixels be held at once; callers wait for the rest, in order of arrival.

    Args:
        size: how many may be held. A larger amount counts as so many: its holder has everything, alone.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.used = 0
        self._turn = asyncio.Lock()  # first come, first served: small ones do not pass a large one for ever
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def reserve(self, amount: int) -> AsyncIterator[Reservation]:
        """Wait until ``amount`` is free and hold it for the length of the block."""
        amount = min(amount, self.size)
        async with self._turn:
            while self.used + amount > self.size:
                self._freed.clear()
                await self._freed.wait()
            self.used += amount
        reservation = Reservation(self, amount)
        try:
            yield reservation
        finally:
            reservation.release()

    def free(self, amount: int) -> None:
        """Give back part of what is held."""
        self.used -= amount
        self._freed.set()


class Reservation:
    """What one holder has of a limiter.

    Attributes:
        amount: how much.
        work: what a thread does with it. A thread cannot be stopped: what it works on stays held until it is done, even
            if nobody waits for it any more.
    """

    def __init__(self, limiter: CapacityLimiter, amount: int) -> None:
        self._limiter, self.amount = limiter, amount
        self.work: Future[Any] | None = None

    def release(self) -> None:
        """Give everything back, as soon as no thread works on it."""
        if self.work is None or self.work.cancel() or self.work.done():
            self.shrink_to(0)
        else:
            self.work.add_done_callback(partial(self._release_later, asyncio.get_running_loop()))

    def _release_later(self, loop: asyncio.AbstractEventLoop, _work: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(self.shrink_to, 0)

    def shrink_to(self, amount: int) -> None:
        """Give back what goes beyond ``amount``."""
        if amount < self.amount:
            self._limiter.free(self.amount - amount)
            self.amount = amount
