"""Boxes of ISO media files (ISO/IEC 14496-12), which AVIF and HEIF are."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Boxes", "Numbers"]

_MOST_STEPS = 100_000  # boxes and whatever else is looked at: far above what encoders write


@dataclass
class Boxes:
    """A file's boxes; counts what was looked at."""

    data: bytes
    _steps: int = 0

    def step(self) -> None:
        """Count one more part.

        Raises:
            ValueError: there are more than encoders write.
        """
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ValueError("the file has too many parts")

    def within(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield the type of each box, and where its contents begin and end."""
        while start + 8 <= end:
            self.step()
            size, kind = struct.unpack_from(">L4s", self.data, start)
            head = 8
            if size == 1:
                (size,), head = struct.unpack_from(">Q", self.data, start + 8), 16
            stop = end if size == 0 else min(start + size, end)
            yield kind, start + head, stop
            start = max(stop, start + head)


@dataclass
class Numbers:
    """Numbers that follow one another in ``data``."""

    data: bytes
    position: int

    def next(self, size: int) -> int:
        """Read a number of ``size`` bytes.

        Raises:
            IndexError: the data ends early.
        """
        if self.position + size > len(self.data):
            raise IndexError("the table ends early")
        self.position += size
        return int.from_bytes(self.data[self.position - size : self.position], "big")
