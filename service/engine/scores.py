"""What a model's outputs say of its classes: how probable each is, and which are the best.

Runs in the front process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from service.engine.answers import ClassScore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from service.models.info import ModelInfo
    from service.vocabulary import Activation

__all__ = ["ranking", "scores_of"]


def scores_of(logits: NDArray[np.float32], info: ModelInfo) -> Callable[[int], ClassScore]:
    """Return a look-up of classes with their probability, for ``logits`` (classes,)."""
    probabilities = _probabilities(logits.astype(np.float64), info.activation)

    def score(index: int) -> ClassScore:
        return ClassScore(index, info.labels[index], float(probabilities[index]), float(logits[index]))

    return score


def _probabilities(logits: NDArray[np.float64], activation: Activation) -> NDArray[np.float64]:
    if activation == "none":
        return logits
    if activation == "sigmoid":
        return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))
    exponentials = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = exponentials / exponentials.sum()
    return shares


def ranking(logits: NDArray[np.float32], k: int) -> list[int]:
    """Return the k best classes, best first; stable, as the worker ranks them too."""
    best: list[int] = np.argsort(-logits, kind="stable")[:k].tolist()
    return best
