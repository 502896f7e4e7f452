"""What a model's outputs say of its classes: how probable each is, which are the best, and how sure that is.

Runs in the front process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from service.engine.answers import ClassScore, Scores
from service.verification.score import probabilities as probabilities_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from service.models.info import ModelInfo

__all__ = ["certainty_of", "ranking", "scores_of"]


def scores_of(logits: NDArray[np.float32], info: ModelInfo) -> Callable[[int], ClassScore]:
    """Return a look-up of classes with their probability, for ``logits`` (classes,)."""
    probabilities = probabilities_of(logits.astype(np.float64), info.activation)

    def score(index: int) -> ClassScore:
        return ClassScore(index, info.labels[index], float(probabilities[index]), float(logits[index]))

    return score


def ranking(logits: NDArray[np.float32], k: int) -> list[int]:
    """Return the k best classes, best first; stable, as the worker ranks them too."""
    best: list[int] = np.argsort(-logits, kind="stable")[:k].tolist()
    return best


def certainty_of(logits: NDArray[np.float32], info: ModelInfo) -> Scores:
    """Return entropy and margin of a prediction with ``logits`` (classes,).

    The entropy is that of the probabilities divided by the logarithm of their number. Where classes do not exclude each
    other, each is a question of its own, and it is the mean of their entropies in bits. One class that excludes nothing
    has no margin, and numbers that are no probabilities have no entropy.
    """
    probabilities = probabilities_of(logits.astype(np.float64), info.activation)
    best = np.sort(probabilities)[::-1]
    margin = float(best[0] - best[1]) if len(best) > 1 else None
    independent = info.multi_label or (info.activation == "sigmoid" and len(logits) != 2)
    return Scores(entropy=_mean_of_binary(probabilities) if independent else _of_one(probabilities), margin=margin)


def _mean_of_binary(probabilities: NDArray[np.float64]) -> float:
    yes = np.clip(probabilities, 0, 1)
    return float(np.mean(_terms(yes) + _terms(1 - yes)) / np.log(2))


def _of_one(probabilities: NDArray[np.float64]) -> float | None:
    shares = np.maximum(probabilities, 0)
    if len(shares) < 2 or not shares.sum() > 0:
        return None
    return min(1.0, float(_terms(shares / shares.sum()).sum() / np.log(len(shares))))


def _terms(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -p log p, which is 0 at 0."""
    terms: NDArray[np.float64] = -probabilities * np.log(np.where(probabilities > 0, probabilities, 1))
    return terms
