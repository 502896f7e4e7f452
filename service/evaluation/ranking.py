"""In which order pixels are taken away or put in: by rank, so that as many go as were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ranks"]


def ranks(evidence: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return each pixel's rank (h, w) in a map of that shape, 0 for the hottest; chance decides among equals.

    Taking away what lies above a percentile of the values, as is often done, takes away everything where most of a map
    is zero.
    """
    flat = evidence.ravel()
    order = np.lexsort((rng.random(flat.size), -flat))
    found = np.empty(flat.size, np.int64)
    found[order] = np.arange(flat.size)
    return found.reshape(evidence.shape)
