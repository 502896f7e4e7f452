"""A bound on what is held at once, by those who can wait for it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
            held.shrink_to(0)

    def free(self, amount: int) -> None:
        """Give back part of what is held."""
        self.used -= amount
        self._freed.set()


class Held:
    """What one holder has of a room."""

    def __init__(self, room: Room, amount: int) -> None:
        self._room, self.amount = room, amount

    def shrink_to(self, amount: int) -> None:
        """Give back what goes beyond ``amount``."""
        if amount < self.amount:
            self._room.free(self.amount - amount)
            self.amount = amount
