"""Memory that the front shares with a worker, for the pixels of batches.

A socket takes a fifth of a megabyte at a time, and the next when the event loop comes by: a batch would arrive as late
as the answers to the one before are written. Linux alone has such memory without a name that must be cleared away; and
what finds no room travels with the message.

Runs in both processes.
"""

from __future__ import annotations

import mmap
import os
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["PixelRoom", "Placed"]

_BYTES = 32 * 2**20  # what was never used takes no memory


@dataclass(frozen=True)
class Placed:
    """Where in the room a batch's pixels are.

    Attributes:
        start: in bytes.
        shape: of the array, uint8.
    """

    start: int
    shape: tuple[int, ...]


class PixelRoom:
    """Holds the pixels of some batches at a time.

    Args:
        descriptor: of the memory; the room keeps one of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._taken: dict[int, range] = {}

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[tuple[PixelRoom, int] | None]:
        """Make a room, and give it with a descriptor for the length of the block; None where the system has no such."""
        with ExitStack() as at_the_end:
            room = None
            with suppress(AttributeError, OSError):  # another system than Linux, a sandbox that forbids it, no memory
                memory = os.memfd_create("camserve pixels", os.MFD_CLOEXEC)
                at_the_end.callback(os.close, memory)
                os.ftruncate(memory, _BYTES)
                room = cls(memory), memory
            yield room

    def put(self, batch: int, pixels: NDArray[np.uint8]) -> Placed | None:
        """Put in a batch's pixels; None where there is no room for them."""
        start = self._gap(pixels.nbytes)
        if start is None:
            return None
        self._taken[batch] = range(start, start + pixels.nbytes)
        placed = Placed(start, pixels.shape)
        self.at(placed)[:] = pixels
        return placed

    def at(self, placed: Placed) -> NDArray[np.uint8]:
        """Return the pixels themselves, as they are until their batch is answered."""
        size = int(np.prod(placed.shape))
        return np.frombuffer(self._memory, np.uint8, size, placed.start).reshape(placed.shape)

    def free(self, batch: int) -> None:
        """Use the room of a batch that is answered for others."""
        self._taken.pop(batch, None)

    def _gap(self, size: int) -> int | None:
        """Return where the first gap of so many bytes is: the same memory is used again and again."""
        start = 0
        for taken in sorted(self._taken.values(), key=lambda each: each.start):
            if taken.start - start >= size:
                break
            start = taken.stop
        return start if start + size <= _BYTES else None
