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

# What is colder, as a share of the map's maximum, is not called important.
_LEAST = 0.1
# Differences below that share of the maximum are rounding.
_LEVELS = 10_000
# Shifts lie on a grid of so many places per axis, so that controls are not all but the same.
_PLACES = 16
# Two controls that share more than that are one.
_SAME = 0.9


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

    Each shares less than half with ``hot``, and no two are all but the same.

    Args:
        hot: what is hidden, (h, w).
        seed: says which places; the same one gives the same places.
        count: how many are wanted; fewer come where no more fit.
    """
    shared, area = _overlaps(hot), int(hot.sum())
    taken: list[tuple[int, int]] = []
    for shift in _shuffled(hot.shape, seed):
        if len(taken) == count:
            break
        apart = (shared[shift[0] - other[0], shift[1] - other[1]] <= _SAME * area for other in taken)
        if 2 * shared[shift] < area and all(apart):
            taken.append(shift)
    return [np.roll(hot, shift, (0, 1)) for shift in taken]


def _overlaps(hot: NDArray[np.bool_]) -> NDArray[Any]:
    """Return how many pixels a shape shares with itself when it is rolled by (row, column), for all of them."""
    spectrum = np.fft.rfft2(hot.astype(np.float64))
    return np.round(np.fft.irfft2(np.abs(spectrum) ** 2, hot.shape))


def _shuffled(shape: tuple[int, ...], seed: int) -> list[tuple[int, int]]:
    """Return the shifts that controls may have, in a random order."""
    rows, columns = (range(0, size, max(1, size // _PLACES)) for size in shape)
    shifts = [(row, column) for row in rows for column in columns]
    return [shifts[index] for index in np.random.default_rng(seed).permutation(len(shifts))]
