"""The pointing game: does a map's maximum lie on the object (Zhang et al., https://arxiv.org/abs/1608.00507)?

A hit is what TorchRay counts as one: the object has a pixel closer to the maximum than the tolerance, strictly. A map
may have its maximum in many places; TorchRay looks at one of them. Here each counts for its share, which is what
drawing one at random gives on average: a map that is the same everywhere scores as chance does, and never hits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TOLERANCE", "accepted", "pointing_game"]

TOLERANCE = 15.0
"""In pixels of the picture itself, as in the published tables."""


def accepted(mask: NDArray[np.bool_], tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """Return where a maximum would hit: closer than ``tolerance`` pixels to the object, or on it.

    Args:
        mask: the object, (h, w).
        tolerance: in pixels of the mask.
    """
    height, width = mask.shape
    found = mask.copy()
    reach = int(np.ceil(tolerance)) - 1 if tolerance > 0 else 0
    padded = np.pad(mask.astype(np.int32), ((0, 0), (reach + 1, reach)))
    sums = padded.cumsum(axis=1)  # (h, w + 2 * reach + 1)
    for rows in range(max(-reach, 1 - height), min(reach, height - 1) + 1):
        columns = _below(tolerance**2 - rows**2)
        # Whether the row has a pixel of the object at most so many columns away.
        near = sums[:, reach + 1 + columns : reach + 1 + columns + width] > sums[:, reach - columns :][:, :width]
        source = slice(max(0, -rows), min(height, height - rows))
        found[max(0, rows) : height + min(0, rows)] |= near[source]
    return found


def _below(square: float) -> int:
    """Return the greatest whole number whose square is less than ``square``, which is positive."""
    root = int(np.sqrt(square))
    return root - 1 if root * root >= square else root


def pointing_game(evidence: NDArray[Any], accepting: NDArray[np.bool_]) -> float:
    """Return the share of the map's maxima that hit.

    Args:
        evidence: the map, (h, w).
        accepting: where a maximum hits, of the same shape; see :func:`accepted`.
    """
    return float(accepting[evidence == evidence.max()].mean())
