"""Which of a picture's pixels one region of a map covers, from what every answer has: the region and the grey mask.

The mask says exactly where the map reaches a threshold, holes included; the region's outline, which is simplified, says
which part of that is one area. Labelling tools want both: a mask for each area, on the picture's own pixels.

``Clicks`` selects among areas. Needs Pillow and NumPy, and nothing else of this package: protocols, clients and exports
all use it.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["Area", "Clicks", "area_of", "levels_of"]

Point = tuple[float, float]

# How far a region's outline may run from the exact one, as a share of the picture's longer side; and rounding.
_TOLERANCE, _ROUNDING = 0.0025, 1.5


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

    def covers(self, x: float, y: float) -> bool:
        """Whether the pixel at a place of the picture belongs to it."""
        column, row = math.floor(x) - self.left, math.floor(y) - self.top
        height, width = self.bits.shape
        return 0 <= row < height and 0 <= column < width and bool(self.bits[row, column])

    def on_picture(self, width: int, height: int) -> NDArray[np.bool_]:
        """Return it as a mask of the whole picture, (height, width)."""
        whole = np.zeros((height, width), np.bool_)
        whole[self.top : self.bottom + 1, self.left : self.right + 1] = self.bits
        return whole


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
    lowest = max(1, math.floor(255 * threshold + 0.5))  # as levels are rounded
    return _trimmed(left, top, np.asarray(near) & (levels[top:bottom, left:right] >= lowest))


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

    def under(self, areas: Iterable[Area]) -> list[Area]:
        """Return those areas that a wanted click lies on."""
        return [area for area in areas if any(area.covers(x, y) for x, y in self.wanted)]

    def lowest(self, levels: NDArray[np.uint8]) -> int:
        """Return the least level (0 to 255) of a map under the wanted clicks; those beside the picture count as 0."""
        height, width = levels.shape
        places = [(math.floor(x), math.floor(y)) for x, y in self.wanted]
        return min(int(levels[y, x]) if 0 <= x < width and 0 <= y < height else 0 for x, y in places)

    def cut(self, areas: Sequence[Area], width: int, height: int) -> NDArray[np.bool_]:
        """Return the mask (height, width) of the areas, less what the box and the unwanted clicks take away."""
        mask = np.zeros((height, width), np.bool_)
        for area in areas:
            rows, columns = slice(area.top, area.bottom + 1), slice(area.left, area.right + 1)
            mask[rows, columns] |= area.bits & self._kept(area)
        if self.box is not None:
            left, top, right, bottom = self.box
            mask[:, : max(0, math.floor(left))] = False
            mask[:, max(0, math.ceil(right)) :] = False
            mask[: max(0, math.floor(top))] = False
            mask[max(0, math.ceil(bottom)) :] = False
        return mask

    def _kept(self, area: Area) -> NDArray[np.bool_]:
        """Return which pixels of an area's box lie no nearer to an unwanted click than to a wanted one."""
        if not self.unwanted:
            return np.ones_like(area.bits)
        return _distance(area, self.wanted) <= _distance(area, self.unwanted)


def _distance(area: Area, points: Sequence[Point]) -> NDArray[np.float32]:
    """Return the square of the distance of each pixel of an area's box from the nearest point."""
    height, width = area.bits.shape
    xs = np.arange(width, dtype=np.float32) + np.float32(area.left + 0.5)
    ys = np.arange(height, dtype=np.float32) + np.float32(area.top + 0.5)
    nearest = np.full((height, width), np.inf, np.float32)
    for x, y in points:
        np.minimum(nearest, (xs - np.float32(x)) ** 2 + ((ys - np.float32(y)) ** 2)[:, None], out=nearest)
    return nearest
