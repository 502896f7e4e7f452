"""How much of a map lies on the object: the energy-based pointing game, or relevance mass accuracy.

See Wang et al., https://arxiv.org/abs/1910.01279, and Arras et al., https://arxiv.org/abs/2003.07258.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["lift", "mass_inside"]


def mass_inside(evidence: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    """Return the share of a map (h, w), at least 0 everywhere, that lies inside ``mask``; a zero map scores as chance.

    Example:
        >>> mass_inside(np.array([[3.0, 1.0]]), np.array([[True, False]]))
        0.75
    """
    total = float(evidence.sum())
    return float(evidence[mask].sum()) / total if total > 0 else float(mask.mean())


def lift(share: float, mask: NDArray[np.bool_]) -> float:
    """Return by how much ``share`` exceeds that of a map that is the same everywhere; the mask is not empty."""
    return share / float(mask.mean())
