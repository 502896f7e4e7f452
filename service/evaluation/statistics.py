"""What can be said of means that come from a few pictures: intervals, and which candidates cannot be told apart.

All candidates are measured on the same pictures, so a resample of the pictures is the same for all of them (the paired
bootstrap). A candidate ties with the best unless the *simultaneous* lower bound of what it lacks is above zero. The
bounds hold for the differences of all pairs together, after the largest standardised deviation in each resample
(max-t): which candidate looks best is itself a matter of luck.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["RESAMPLES", "Comparison", "Interval", "beats", "compare", "cross_fitted", "interval", "pooled_interval"]

RESAMPLES = 2000
_LEVEL = 0.95
_EQUAL = 1e-12


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` pictures with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Candidates compared with the one of the highest mean.

    Attributes:
        best: its index.
        ties: indices of those that cannot be told from it, itself among them, by falling mean.
        best_share: for each candidate, in what share of the resamples it is the best; equals share it.
        behind: for each candidate, what it lacks (mean), with the simultaneous bounds.
    """

    best: int
    ties: tuple[int, ...]
    best_share: tuple[float, ...]
    behind: tuple[tuple[float, float, float], ...]


def _weights(n: int, seed: int) -> NDArray[np.float64]:
    """Return how much each of ``n`` pictures weighs in each resample: (RESAMPLES, n), rows summing up to 1."""
    rng = np.random.default_rng([seed, n])
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n


def interval(scores: NDArray[np.float64], seed: int) -> Interval:
    """Return the mean of ``scores`` (n,), those that are numbers, with its interval."""
    values = scores[~np.isnan(scores)]
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    return _summary(float(values.mean()), _weights(len(values), seed) @ values, len(values))


def pooled_interval(
    counts: NDArray[np.float64], reduce: Callable[[NDArray[np.float64]], NDArray[np.float64]], seed: int
) -> Interval:
    """Return the interval of what is computed from all pictures together.

    Args:
        counts: (n, …), one entry per picture.
        reduce: computes it of mean counts (…, *rest), for any leading axes.
        seed: of the resamples.
    """
    n = len(counts)
    resampled = np.tensordot(_weights(n, seed), counts, axes=1)
    return _summary(float(reduce(counts.mean(axis=0))), reduce(resampled), n)


def _summary(mean: float, resampled: NDArray[np.float64], n: int) -> Interval:
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean, float(low), float(high), n)


def compare(scores: NDArray[np.float64], seed: int) -> Comparison:
    """Compare candidates by their scores (candidates, n) of the same pictures; higher is better."""
    means = scores.mean(axis=1)
    best = int(means.argmax())
    resampled = scores @ _weights(scores.shape[1], seed).T  # (candidates, RESAMPLES)
    behind = means[best] - means
    deviations = resampled - means[:, None]
    errors = (deviations[best] - deviations).std(axis=1)
    reach = _largest_deviation(deviations) * np.where(errors > _EQUAL, errors, 0)
    tied = behind - reach <= _EQUAL
    order = sorted(np.flatnonzero(tied).tolist(), key=lambda index: -means[index])
    return Comparison(
        best,
        tuple(order),
        tuple(_best_shares(resampled).tolist()),
        tuple((float(d), float(d - r), float(d + r)) for d, r in zip(behind, reach, strict=True)),
    )


def _largest_deviation(deviations: NDArray[np.float64]) -> float:
    """Return the quantile of the largest deviation of any pair's difference, in standard errors, over resamples.

    Args:
        deviations: of the candidates' means (candidates, RESAMPLES).
    """
    largest = np.zeros(deviations.shape[1])
    for index in range(len(deviations) - 1):
        pairs = deviations[index] - deviations[index + 1 :]
        errors = pairs.std(axis=1, keepdims=True)
        scaled = np.abs(pairs) / np.where(errors > _EQUAL, errors, np.inf)
        largest = np.maximum(largest, scaled.max(axis=0))
    return float(np.quantile(largest, _LEVEL))


def _best_shares(resampled: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = resampled >= resampled.max(axis=0) - _EQUAL
    shares: NDArray[np.float64] = (highest / highest.sum(axis=0)).mean(axis=1)
    return shares


def beats(scores: NDArray[np.float64], others: NDArray[np.float64], seed: int) -> bool | None:
    """Whether ``scores`` (n,) are higher than ``others`` on the same pictures, beyond doubt; None without any.

    Beyond doubt is: in all but a fortieth of the resamples. Pictures that either was not measured on do not count.
    """
    difference = (scores - others)[~np.isnan(scores + others)]
    if not len(difference):
        return None
    return bool(np.quantile(_weights(len(difference), seed) @ difference, (1 - _LEVEL) / 2) > 0)


def cross_fitted(scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return each picture's score (n,) at the threshold that is best for the other half of the pictures.

    A threshold that is chosen on the pictures it is judged by would flatter whoever has the luck.

    Args:
        scores: (n, thresholds).
        seed: decides on the halves.
    """
    n = len(scores)
    if n < 2:
        return np.asarray(scores.max(axis=1))
    order = np.random.default_rng([seed, n]).permutation(n)
    found = np.empty(n)
    for half, other in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
        found[half] = scores[half, int(scores[other].mean(axis=0).argmax())]
    return found
