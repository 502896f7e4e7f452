"""Where float32 has nothing to say: sums that cancel, and ranges that are none."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channel_sum", "stretched", "without_rounding"]

# Float32 holds seven digits, and what a network computes in it some six: of a sum that cancels to this share of its
# terms, three or four are left.
_CANCELLED = 1e-3

# A range of values below this share of the greatest magnitude around is not stretched to the full: rounding would be.
_LEAST_RANGE = 1e-2


def channel_sum(terms: Tensor) -> Tensor:
    """Sum (N, C, h, w) over channels: (N, h, w), without rows of rounding errors."""
    return without_rounding(terms.sum(1), terms.abs().sum(1))


def without_rounding(maps: Tensor, terms: Tensor) -> Tensor:
    """Set rows of ``maps`` to zero that are left of terms that cancel.

    They would be drawn like any other map, and would be another one in another batch.

    Args:
        maps: (N, h, w), sums of terms.
        terms: (N, h, w), the sums of their absolute values.

    Returns:
        ``maps``, but zero for rows whose greatest magnitude is below a thousandth of that of the terms. A row whose
        terms are not finite is left as it is.
    """
    largest, greatest = maps.abs().amax((1, 2), keepdim=True), terms.amax((1, 2), keepdim=True)
    return torch.where((largest <= _CANCELLED * greatest) & greatest.isfinite(), 0.0, maps)


def stretched(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Scale ``values`` (N, C, h, w) to 0-1 over ``dim``.

    What hardly varies, next to the greatest magnitude of its row, is scaled to less than 1, and to 0 where it is the
    same everywhere: a map must not hang on the pattern that rounding leaves in a faint channel.
    """
    low, high = values.amin(dim, keepdim=True), values.amax(dim, keepdim=True)
    least = _LEAST_RANGE * values.abs().amax((1, 2, 3), keepdim=True)
    return (values - low) / torch.maximum(high - low, least).clamp(min=torch.finfo(values.dtype).tiny)
