"""What a map must pass before its scores mean anything: tests of single maps. They are never ranked by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["at_border", "correlation", "is_dead"]

_FLAT = 1e-6  # of the maximum: what is no more than rounding
_BORDER = 0.95


def is_dead(values: NDArray[Any]) -> bool:
    """Whether a raw map (h, w) says nothing of places: nothing is positive, or it is the same everywhere."""
    highest = float(values.max())
    return highest <= 0 or highest - float(values.min()) <= _FLAT * highest


def at_border(values: NDArray[Any]) -> bool:
    """Whether almost all of a raw map (h, w), at least 0 everywhere, lies in one border row or column.

    That is how padding shows, not a picture. Maps of fewer than four rows or columns are mostly border.
    """
    total = float(values.sum())
    if total <= 0 or min(values.shape) < 4:
        return False
    edges = (values[0], values[-1], values[:, 0], values[:, -1])
    return max(float(edge.sum()) for edge in edges) > _BORDER * total


def correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return Pearson's r of two maps of the same shape; 0 where one of them is the same everywhere."""
    a, b = (each.astype(np.float64) - each.mean(dtype=np.float64) for each in (one, other))
    norm = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0
