"""Noisy linear imputation: pixels that were taken away become the mean of their neighbours.

The weights are those of ROAD (Rong et al., https://arxiv.org/abs/2202.00449): a missing pixel is the weighted mean of
its eight neighbours, 1/6 for those beside it and 1/12 for those at its corners. Published code solves that system of
equations with a sparse solver, picture by picture, in tenths of a second. Here it is approached from coarse to fine: at
every resolution some sweeps of the same equations, begun with what the next coarser one found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NOISE", "impute"]

NOISE = 0.01
"""Standard deviation of what is added, of the pixels' range: what is filled must not be told by its smoothness."""

_SWEEPS = 8
_BESIDE = np.float32(2)  # as much as a corner, twice


def impute(
    pixels: NDArray[np.float32], missing: NDArray[np.bool_], rng: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Fill the missing pixels of a picture.

    Args:
        pixels: (channels, h, w), 0–255.
        missing: (h, w); where everything is missing, there is nothing to go by, and all becomes grey.
        rng: where the noise comes from; none without.
    """
    if missing.all():
        filled = np.full_like(pixels, 127.5)
    else:
        filled = _solve(np.where(missing, np.float32(0), pixels), ~missing)
    if rng is not None:
        noise = rng.standard_normal(pixels.shape, np.float32) * np.float32(255 * NOISE)
        filled += np.where(missing, noise, np.float32(0))
    return np.clip(filled, 0, 255)


def _solve(values: NDArray[np.float32], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill what is not known of ``values`` (channels, h, w), of which some is and the rest is 0."""
    if known.all():
        return values
    coarse, coarse_known = _halved(values, known)
    guess = _doubled(_solve(coarse, coarse_known), known.shape)
    return _swept(np.where(known, values, guess), values, ~known)


def _swept(filled: NDArray[np.float32], values: NDArray[np.float32], missing: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Sweep some times over the missing pixels: each becomes the mean of its neighbours; beyond the border are none."""
    padded = np.pad(filled, ((0, 0), (1, 1), (1, 1)))
    inside = padded[:, 1:-1, 1:-1]
    share = missing / _around(np.pad(np.ones((1, *missing.shape), np.float32), ((0, 0), (1, 1), (1, 1))))
    for _ in range(_SWEEPS):
        around = _around(padded)
        np.multiply(around, share, out=around)
        np.add(around, values, out=inside)
    return inside


def _around(padded: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return twelve times the weighted sum of neighbours, (channels, h, w), of (channels, h + 2, w + 2)."""
    vertical = padded[:, :-2] + padded[:, 2:]
    sides = padded[:, 1:-1] * _BESIDE
    sides += vertical
    total = sides[:, :, :-2] + sides[:, :, 2:]
    vertical *= _BESIDE
    total += vertical[:, :, 1:-1]
    return total


def _halved(values: NDArray[np.float32], known: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the means of the known pixels of every 2 × 2, and whether there are any."""
    height, width = known.shape
    odd = ((0, height % 2), (0, width % 2))
    weights = np.pad(known.astype(np.float32), odd)
    sums = _blocks(np.pad(values * known, ((0, 0), *odd)))
    counts = _blocks(weights[None])[0]
    return sums / np.maximum(counts, 1), counts > 0


def _blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of every 2 × 2 of (channels, h, w)."""
    return values[:, ::2, ::2] + values[:, 1::2, ::2] + values[:, ::2, 1::2] + values[:, 1::2, 1::2]


def _doubled(values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return (channels, *shape), read between the coarse pixels."""
    for axis in (1, 2):
        values = _between(values, axis)
    return values[:, : shape[0], : shape[1]]


def _between(values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return twice as many values along an axis: each a quarter of the way towards a neighbour."""
    first, last = values.take([0], axis), values.take([-1], axis)
    before = np.concatenate([first, values], axis).take(range(values.shape[axis]), axis)
    after = np.concatenate([values, last], axis).take(range(1, values.shape[axis] + 1), axis)
    pairs = np.stack([0.75 * values + 0.25 * before, 0.75 * values + 0.25 * after], axis + 1)
    shape = list(values.shape)
    shape[axis] *= 2
    return pairs.reshape(shape).astype(np.float32)
