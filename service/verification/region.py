"""What a map calls important, in pixels of the model's input, and the same shape elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from service.imaging.grid import grid_for
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.comparison import PlacedMap
    from service.imaging.geometry import Geometry

__all__ = ["CONTROLS", "SHARE", "View", "elsewhere", "hottest"]

SHARE = 0.15
"""How much of what the model saw is hidden at most."""

CONTROLS = 19
"""How often the same shape is hidden elsewhere: a drop that none of them reaches has p = 1/20."""

# What is colder, as a share of the map's maximum, is not called important; regions are drawn above it, too.
_LEAST = 0.5
# Differences below that share of the maximum are rounding.
_LEVELS = 10_000
# Shifts lie on a grid of so many places per axis.
_PLACES = 32
_HALF = 0.5
# What two controls may share, as it is tried one after the other.
_CLOSENESS = (*[_HALF] * 10, 0.6, 0.7)


@dataclass(frozen=True)
class View:
    """The part of the model's input that the picture fills, in its pixels; the rest is padding.

    ``bottom`` and ``right`` are not part of it.
    """

    top: int
    left: int
    bottom: int
    right: int

    @classmethod
    def of(cls, geometry: Geometry) -> View:
        """Return the view of a picture that was brought to the model's input by ``geometry``."""
        rows, columns = grid_for("model", geometry, (1, 1), 1).seen
        return cls(rows.start, columns.start, rows.stop, columns.stop)

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Rows and columns of the model's input."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def hottest(evidence: PlacedMap, view: View) -> NDArray[np.bool_]:
    """Return the pixels of ``view`` where a map is hottest: no more than ``SHARE`` of them, none that is cold.

    Among pixels that are equally hot, those near the centre of all that is hot come first, so that the shape hangs
    together.
    """
    xs = evidence.placement.x.to_cells(np.arange(view.left, view.right) + 0.5)
    ys = evidence.placement.y.to_cells(np.arange(view.top, view.bottom) + 0.5)
    heat = np.maximum(resample(np.maximum(evidence.values, 0), xs, ys).astype(np.float64), 0)
    greatest = heat.max()
    hot = np.zeros(heat.shape, np.bool_)
    if greatest > 0:
        levels = np.round(heat / greatest * _LEVELS)
        order = np.lexsort((_from_centre(levels).ravel(), -levels.ravel()))
        hot.flat[order[: max(1, int(SHARE * heat.size))]] = True
        hot &= levels >= _LEAST * _LEVELS
    return hot


def _from_centre(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return every pixel's squared distance from the centre of mass of ``heat`` (h, w)."""
    rows, columns = np.indices(heat.shape)
    total = heat.sum()
    away: NDArray[np.float64] = (rows - (rows * heat).sum() / total) ** 2 + (
        columns - (columns * heat).sum() / total
    ) ** 2
    return away


def elsewhere(hot: NDArray[np.bool_], seed: int, count: int = CONTROLS) -> list[NDArray[np.bool_]]:
    """Return the same shape in other places of the view: rolled, so that nothing is cut off and the area is the same.

    Each shares less than half with ``hot``. So does each with each other as far as they find room, so that ``hot`` is
    one place among equals: if others could be nearer to each other than to it, something small that it covers by luck
    would be covered again less often than chance has it, and too many maps would be supported.

    Args:
        hot: what is hidden, (h, w).
        seed: says which places; the same one gives the same places.
        count: how many are wanted; fewer come where no more fit.
    """
    shared = _overlaps(hot) / hot.sum()
    rng = np.random.default_rng(seed)
    tries = (_taken(shared, rng.permutation(_shifts(hot.shape)), count, most) for most in _CLOSENESS)
    best: list[tuple[int, int]] = []
    for taken in tries:
        best = max(best, taken, key=len)
        if len(best) == count:
            break
    return [np.roll(hot, shift, (0, 1)) for shift in best]


def _taken(shared: NDArray[np.float64], shifts: NDArray[np.intp], count: int, most: float) -> list[tuple[int, int]]:
    """Take ``count`` of the shifts, in their order, that share no more than ``most`` with each other."""
    taken: list[tuple[int, int]] = []
    for row, column in shifts.tolist():
        if len(taken) == count:
            break
        apart = (shared[row - above, column - left] < most for above, left in taken)
        if shared[row, column] < _HALF and all(apart):
            taken.append((row, column))
    return taken


def _overlaps(hot: NDArray[np.bool_]) -> NDArray[Any]:
    """Return how many pixels a shape shares with itself when it is rolled by (row, column), for all of them."""
    spectrum = np.fft.rfft2(hot.astype(np.float64))
    return np.round(np.fft.irfft2(np.abs(spectrum) ** 2, hot.shape))


def _shifts(shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Return the shifts that controls may have, (n, 2)."""
    rows, columns = (np.arange(0, size, max(1, size // _PLACES)) for size in shape)
    return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
