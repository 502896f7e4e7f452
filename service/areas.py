"""Which of a picture's pixels one region of a map covers, from what every answer has: the region and the grey mask.

The mask says exactly where the map reaches a threshold, holes included; the region's outline, which is simplified, says
which part of that is one area. Labelling tools want both: a mask for each area, on the picture's own pixels.

``Clicks`` selects the part of a map that somebody pointed at. Needs Pillow and NumPy, and nothing else of this package:
protocols, clients and exports all use it.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Levels = NDArray[np.uint8]
    Mask = NDArray[np.bool_]

__all__ = ["Area", "Clicks", "area_of", "levels_in", "levels_of", "parts_at"]

Point = tuple[float, float]

# How far a region's outline may run from the exact one, as a share of the picture's longer side; and rounding.
_TOLERANCE, _ROUNDING = 0.0025, 1.5
_ROWS_AT_ONCE = 256  # so that distances take little memory


@dataclass(frozen=True)
class Area:
    """A part of a picture.

    Attributes:
        left: the first column of ``bits``, in pixels of the picture.
        top: its first row.
        bits: which pixels belong to it, (h, w) bool; some pixel in each outer row and column does.
    """

    left: int
    top: int
    bits: NDArray[np.bool_]

    @property
    def right(self) -> int:
        """The last column, which is part of it."""
        return int(self.left + self.bits.shape[1] - 1)

    @property
    def bottom(self) -> int:
        """The last row, which is part of it."""
        return int(self.top + self.bits.shape[0] - 1)

    def on_picture(self, width: int, height: int) -> NDArray[np.bool_]:
        """Return it as a mask of the whole picture, (height, width)."""
        whole = np.zeros((height, width), np.bool_)
        whole[self.top : self.bottom + 1, self.left : self.right + 1] = self.bits
        return whole


def levels_in(png: str) -> NDArray[np.uint8]:
    """Return the map (h, w), 0 to 255, of a grey picture in base64, as answers and kept files have it."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image.convert("L"))


def levels_of(mask: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Return the map on a picture's own pixels, (height, width), 0 to 255, from the file of its grey mask.

    A mask that was drawn smaller than the picture is enlarged.
    """
    with Image.open(io.BytesIO(mask)) as image:
        grey = image.convert("L")
    if grey.size != (width, height):
        grey = grey.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(grey)


def area_of(levels: NDArray[np.uint8], polygon: Sequence[Sequence[float]], threshold: float) -> Area | None:
    """Return the pixels of one region; None if it covers no pixel's centre.

    Args:
        levels: as :func:`levels_of` returns them.
        polygon: the region's outline.
        threshold: of the regions, as a fraction of the map's maximum.
    """
    height, width = levels.shape
    margin = math.ceil(_TOLERANCE * max(width, height) + _ROUNDING)
    xs, ys = [point[0] for point in polygon], [point[1] for point in polygon]
    left, right = max(0, math.floor(min(xs)) - margin), min(width, math.ceil(max(xs)) + margin)
    top, bottom = max(0, math.floor(min(ys)) - margin), min(height, math.ceil(max(ys)) + margin)
    near = Image.new("1", (right - left, bottom - top))
    outline = [
        (x - left - 0.5, y - top - 0.5) for x, y in zip(xs, ys, strict=True)
    ]  # Pillow's pixels have whole centres
    draw = ImageDraw.Draw(near)
    draw.polygon(outline, fill=1)
    draw.line([*outline, outline[0]], fill=1, width=2 * margin + 1)
    return _trimmed(left, top, np.asarray(near) & (levels[top:bottom, left:right] >= _least(threshold)))


def _least(threshold: float) -> int:
    """Return the least level that reaches a fraction of the map's maximum: levels are rounded. Zero never does."""
    return max(1, math.floor(255 * threshold + 0.5))


def _trimmed(left: int, top: int, bits: NDArray[np.bool_]) -> Area | None:
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    if not rows.size:
        return None
    first_row, first_column = int(rows[0]), int(columns[0])
    kept = bits[first_row : int(rows[-1]) + 1, first_column : int(columns[-1]) + 1]
    return Area(left + first_column, top + first_row, kept)


@dataclass(frozen=True)
class Clicks:
    """Where somebody clicked, in pixels of the picture.

    Attributes:
        wanted: on what should be masked.
        unwanted: on what should not.
        box: left, top, right and bottom of a box that the mask stays in.
    """

    wanted: Sequence[Point]
    unwanted: Sequence[Point] = ()
    box: tuple[float, float, float, float] | None = None

    def best_part(self, maps: Sequence[Levels], threshold: float) -> Mask:
        """Return what lies under the wanted clicks of the first map that has something there, as (h, w).

        Where none has, it is the part of the first map that begins at the clicks.

        Args:
            maps: on the picture's pixels, each (h, w), 255 its maximum; at least one.
            threshold: of what counts, as a fraction of the maximum.
        """
        seeds = self.pixels(maps[0].shape)
        for levels in maps:
            if (part := self.part(levels, seeds, _least(threshold))).any():
                return part
        begins = maps[0][seeds & (maps[0] > 0)]
        return self.part(maps[0], seeds, int(begins.min())) if begins.size else np.zeros_like(seeds)

    def pixels(self, shape: tuple[int, ...]) -> Mask:
        """Return the pixels (h, w) under the wanted clicks; those beside the picture have none."""
        found = np.zeros(shape, np.bool_)
        for x, y in self.wanted:
            if 0 <= x < shape[1] and 0 <= y < shape[0]:
                found[math.floor(y), math.floor(x)] = True
        return found

    def part(self, levels: Levels, seeds: Mask, least: float) -> Mask:
        """Return what reaches a level, hangs together with a pixel of ``seeds`` and is not cut off, as (h, w).

        Cut off is what lies outside the box, or nearer to an unwanted click than to a wanted one. Zero reaches none.
        """
        mask = levels >= max(1.0, least)
        self._bound(mask)
        if self.unwanted:
            self._cut(mask)
        return parts_at(mask, seeds)

    def _bound(self, mask: Mask) -> None:
        if self.box is not None:
            left, top, right, bottom = self.box
            mask[:, : max(0, math.floor(left))] = False
            mask[:, max(0, math.ceil(right)) :] = False
            mask[: max(0, math.floor(top))] = False
            mask[max(0, math.ceil(bottom)) :] = False

    def _cut(self, mask: Mask) -> None:
        for top in range(0, len(mask), _ROWS_AT_ONCE):
            some = mask[top : top + _ROWS_AT_ONCE]
            rows, columns = np.nonzero(some)
            middles = columns.astype(np.float32) + np.float32(0.5), rows.astype(np.float32) + np.float32(top + 0.5)
            some[rows, columns] = _distance(*middles, self.wanted) <= _distance(*middles, self.unwanted)


def _distance(xs: NDArray[np.float32], ys: NDArray[np.float32], points: Sequence[Point]) -> NDArray[np.float32]:
    """Return the square of the distance of each place from the nearest point; infinite without points."""
    nearest = np.full(xs.shape, np.inf, np.float32)
    for x, y in points:
        np.minimum(nearest, (xs - np.float32(x)) ** 2 + (ys - np.float32(y)) ** 2, out=nearest)
    return nearest


def parts_at(mask: Mask, seeds: Mask) -> Mask:
    """Return those connected parts of ``mask`` (h, w) that hold a pixel of ``seeds``; corners do not connect."""
    stride = mask.shape[1] + 1  # a column that is in no part ends the runs of a row
    padded = np.zeros((mask.shape[0], stride), np.bool_)
    padded[:, :-1] = mask
    edges = np.flatnonzero(np.diff(padded.reshape(-1), prepend=False))
    begins, ends = edges[::2], edges[1::2]
    kept = np.zeros_like(mask)
    if not begins.size:
        return kept
    padded[:, :-1] &= seeds
    seeded = np.logical_or.reduceat(padded.reshape(-1), begins)
    rows, starts = np.divmod(begins, stride)
    stops = ends - rows * stride
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    for upper, lower in _touching(rows, starts, stops):
        parent[root(lower)] = root(upper)
    found = {root(run) for run in np.flatnonzero(seeded).tolist()}
    for run, (row, start, stop) in enumerate(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)):
        if root(run) in found:
            kept[row, start:stop] = True
    return kept


def _touching(rows: NDArray[Any], starts: NDArray[Any], stops: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of runs that lie one above the other."""
    bounds = np.searchsorted(rows, np.arange(rows[0], rows[-1] + 2)).tolist()
    begin, end = starts.tolist(), stops.tolist()
    for upper, lower, last in zip(bounds, bounds[1:], bounds[2:], strict=False):
        above, below = upper, lower
        while above < lower and below < last:
            if begin[above] < end[below] and begin[below] < end[above]:
                yield above, below
            if end[above] < end[below]:
                above += 1
            else:
                below += 1
