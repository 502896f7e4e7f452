"""Bitmaps of runs (RLE8, RLE4), a step for each run: Pillow takes one for each pixel, seconds of them for 33 KB.

Follows Microsoft's description of bitmap compression. What no run says is colour 0.
"""

from __future__ import annotations

__all__ = ["TooManyRuns", "read_runs"]


_DIGITS = bytes.maketrans(b"0123456789abcdef", bytes(range(16)))


class TooManyRuns(ValueError):
    """There are more runs than may be read."""


def read_runs(data: memoryview, width: int, height: int, bits: int, most: int) -> bytearray:
    """Return the colour numbers of a bitmap, one byte each, as many as ``width`` times ``height``, its last row first.

    A run that goes beyond its row ends there.

    Args:
        data: from the first run on.
        width: in pixels.
        height: in pixels.
        bits: of a colour number, 4 or 8.
        most: runs, ends of lines and jumps that are read.

    Raises:
        TooManyRuns: there are more.
        ValueError: it ends before the picture does.
    """
    numbers, size, position, x, row = bytearray(width * height), len(data), 0, 0, 0
    for _ in range(most):
        if row >= height or (x >= width and row == height - 1):
            return numbers
        if position + 2 > size:
            raise ValueError("the runs end early")
        count, value = data[position], data[position + 1]
        position += 2
        if count:
            _put(numbers, row * width, x, width, _repeated(value, count, bits))
            x += count
        elif value == 0:  # the end of a line
            x, row = 0, row + 1
        elif value == 1:  # the end of the picture
            return numbers
        elif value == 2:  # a jump
            if position + 2 > size:
                raise ValueError("the runs end early")
            x, row = x + data[position], row + data[position + 1]
            position += 2
        else:  # so many numbers as they are, up to a multiple of two bytes
            length = (value * bits + 7) // 8
            if position + length > size:
                raise ValueError("the runs end early")
            packed = bytes(data[position : position + length])
            _put(numbers, row * width, x, width, packed if bits == 8 else _nibbles(packed)[:value])
            x += value
            position += length + length % 2
    raise TooManyRuns(f"it has more than {most:,} runs")


def _put(numbers: bytearray, start: int, x: int, width: int, run: bytes) -> None:
    room = width - x
    if room > 0:
        run = run[:room]
        numbers[start + x : start + x + len(run)] = run


def _repeated(value: int, count: int, bits: int) -> bytes:
    """Return ``count`` colour numbers: the same, or of 4 bits two by turns."""
    if bits == 8:
        return bytes((value,)) * count
    return (bytes((value >> 4, value & 15)) * (count // 2 + 1))[:count]


def _nibbles(packed: bytes) -> bytes:
    """Return the halves of each byte, the higher one first."""
    return packed.hex().encode("ascii").translate(_DIGITS)
