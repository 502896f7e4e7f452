"""Intersection over union of what a map has above a threshold with the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["THRESHOLDS", "ious"]

THRESHOLDS = np.arange(1, 20) / 20
"""Of the map's maximum. Which is best is chosen on other pictures than those that are scored with it."""


def ious(
    evidence: NDArray[Any], mask: NDArray[np.bool_], thresholds: NDArray[np.float64] = THRESHOLDS
) -> NDArray[np.float64]:
    """Return the overlap at each threshold, (T,); everything is above the thresholds of a zero map.

    Args:
        evidence: the map, (h, w), at least 0 everywhere.
        mask: the object, of the same shape.
        thresholds: rising, as fractions of the map's maximum; what is at the threshold is above it.
    """
    above = np.searchsorted(thresholds * evidence.max(), evidence.ravel(), side="right")  # how many it reaches
    inside = mask.ravel()
    both = _at_least(above[inside], len(thresholds))
    either = inside.sum() + _at_least(above[~inside], len(thresholds))
    overlaps: NDArray[np.float64] = both / np.maximum(either, 1)
    return overlaps


def _at_least(counts: NDArray[np.intp], most: int) -> NDArray[np.int64]:
    """Return how many of ``counts`` are at least 1, at least 2, … at least ``most``."""
    numbers = np.bincount(counts, minlength=most + 1)
    return numbers[::-1].cumsum()[::-1][1:].astype(np.int64)
