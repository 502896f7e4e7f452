"""ROAD, combined: what the class loses with the hottest pixels, compared with the coldest.

Rong et al., https://arxiv.org/abs/2202.00449; combined over both orders as in pytorch-grad-cam.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from service.evaluation.imputation import impute
from service.evaluation.ranking import ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SHARES", "road_combined", "road_inputs"]

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels, that are taken away."""


def road_inputs(pixels: NDArray[np.uint8], evidence: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return what the model is shown: (2 · len(SHARES), h, w, channels), the hottest pixels gone, then the coldest.

    Args:
        pixels: the model's input, (h, w, channels).
        evidence: the map, (h, w).
        rng: decides among equal pixels, and makes the noise.
    """
    place = ranks(evidence, rng)
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)  # (channels, h, w)
    counts = [round(share * place.size) for share in SHARES]
    gone = [*(place < count for count in counts), *(place >= place.size - count for count in counts)]
    filled = np.stack([impute(planes, missing, rng) for missing in gone])
    return np.ascontiguousarray((filled + 0.5).astype(np.uint8).transpose(0, 2, 3, 1))


def road_combined(probabilities: NDArray[Any]) -> float:
    """Return half of the mean difference, in -0.5 to 0.5, of the class's probabilities for ``road_inputs``.

    Example:
        >>> road_combined(np.array([0.1, 0.1, 0.0, 0.0, 0.9, 0.9, 0.7, 0.5]))  # doctest: +NUMBER
        0.35
    """
    hottest, coldest = np.split(np.asarray(probabilities, np.float64), 2)
    return float((coldest - hottest).mean() / 2)
