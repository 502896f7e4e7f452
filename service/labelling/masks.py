"""Masks of what a map shows: the parts that hang together, and which of them a person pointed at."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Point = tuple[float, float]

__all__ = ["alpha_png", "bounds_of", "levels_of", "nearer_to", "parts_at", "peak_of"]


def levels_of(png: bytes) -> NDArray[np.uint8]:
    """Read a grey mask, (h, w): 255 is the map's maximum."""
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("L"))


def alpha_png(levels: NDArray[np.uint8]) -> bytes:
    """Write levels (h, w) as the opacity of a picture without colours of its own."""
    white = np.full_like(levels, 255)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([white, white, white, levels], axis=2), "RGBA").save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def parts_at(mask: Mask, seeds: Mask) -> Mask:
    """Return those connected parts of ``mask`` (h, w) that hold a pixel of ``seeds``; corners do not connect."""
    rows, starts, ends = _runs(mask)
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for upper, lower in _touching(rows, starts, ends):
        parent[root(lower)] = root(upper)
    sums = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int64)
    np.cumsum(seeds, axis=1, out=sums[:, 1:])
    seeded = {root(run) for run in np.flatnonzero(sums[rows, ends] > sums[rows, starts]).tolist()}
    kept = np.zeros_like(mask)
    for run in range(len(rows)):
        if root(run) in seeded:
            kept[rows[run], starts[run] : ends[run]] = True
    return kept


def _runs(mask: Mask) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the runs of a mask, row by row: their rows, first columns, and columns after the last."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    return rows, starts, np.nonzero(steps == -1)[1]


def _touching(rows: NDArray[Any], starts: NDArray[Any], ends: NDArray[Any]) -> Iterable[tuple[int, int]]:
    """Yield the pairs of runs that lie one above the other."""
    bounds = np.searchsorted(rows, np.arange(rows[-1] + 2)) if len(rows) else np.zeros(1, np.int64)
    for row in range(len(bounds) - 2):
        upper, lower, last = int(bounds[row]), int(bounds[row + 1]), int(bounds[row + 2])
        end = lower
        while upper < end and lower < last:
            if starts[upper] < ends[lower] and starts[lower] < ends[upper]:
                yield upper, lower
            if ends[upper] < ends[lower]:
                upper += 1
            else:
                lower += 1


def nearer_to(shape: tuple[int, int], here: Iterable[Point], there: Iterable[Point]) -> Mask:
    """Return the pixels of (h, w) that lie nearer to a point (x, y) of ``here`` than to any of ``there``."""
    return _distance(shape, here) < _distance(shape, there)


def _distance(shape: tuple[int, int], points: Iterable[Point]) -> NDArray[np.float32]:
    """Return the squared distance of each pixel from the nearest point; infinite without points."""
    found = np.full(shape, np.inf, np.float32)
    rows = (np.arange(shape[0], dtype=np.float32) + 0.5)[:, None]
    columns = (np.arange(shape[1], dtype=np.float32) + 0.5)[None, :]
    for x, y in points:
        np.minimum(found, (columns - np.float32(x)) ** 2 + (rows - np.float32(y)) ** 2, out=found)
    return found


def bounds_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is in a mask that holds something, the last two behind it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def peak_of(levels: NDArray[np.uint8], mask: Mask) -> Point:
    """Return the middle of the highest pixel of a mask that holds some."""
    y, x = np.unravel_index(int(np.where(mask, levels.astype(np.int16), -1).argmax()), levels.shape)
    return float(x) + 0.5, float(y) + 0.5
