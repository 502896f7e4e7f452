"""What clicks select: the area under them, without what lies nearer to clicks of the other kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from service.areas import Area

__all__ = ["Clicks"]

Point = tuple[float, float]


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
