"""A bound on what is held at once, by those who can wait for it.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["CapacityLimiter"]


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
    async def reserve(self, amount: int) -> AsyncIterator[None]:
        """Wait until ``amount`` is free and hold it for the length of the block."""
        amount = min(amount, self.size)
        async with self._turn:
            while self.used + amount > self.size:
                self._freed.clear()
                await self._freed.wait()
            self.used += amount
        try:
            yield
        finally:
            self.used -= amount
            self._freed.set()
