"""PxAP: the average precision of a map's values as scores of the pixels (Choe et al., https://arxiv.org/abs/2001.07437).

Pixels of all pictures are ranked together, each picture weighing as much as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BINS", "average_precision", "pixel_counts"]

BINS = 100


def pixel_counts(evidence: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the shares (2, BINS) of a picture's pixels on the object and beside it, by their value in the map.

    Args:
        evidence: the map, (h, w), at least 0 everywhere.
        mask: the object, of the same shape.
    """
    highest = float(evidence.max())
    scaled = evidence / highest if highest > 0 else np.zeros_like(evidence)
    bins = np.minimum((scaled * BINS).astype(np.intp), BINS - 1)
    counts = [np.bincount(bins[where], minlength=BINS) for where in (mask, ~mask)]
    return np.stack(counts) / mask.size


def average_precision(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the average precision of counts (…, 2, BINS): sum of precision times the rise of recall, from the top.

    Example:
        >>> counts = np.zeros((2, BINS)); counts[0, 90] = counts[1, 10] = 1  # the object is hotter than the rest
        >>> float(average_precision(counts))
        1.0
    """
    hits, misses = (counts[..., each, ::-1].cumsum(axis=-1) for each in (0, 1))
    precision = hits / np.maximum(hits + misses, 1e-12)
    total = np.maximum(hits[..., -1:], 1e-12)
    rise = np.diff(hits / total, axis=-1, prepend=0.0)
    found: NDArray[np.float64] = (precision * rise).sum(axis=-1)
    return found
