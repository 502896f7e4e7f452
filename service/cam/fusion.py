"""Fusion: one map of those of several layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.vocabulary import Fuse

__all__ = ["fuse"]


def fuse(maps: Sequence[Tensor], how: Fuse) -> Tensor:
    """Make one map of those of several layers.

    Layers differ in scale, so each map is divided by its greatest magnitude first; an all-zero map stays zero. They are
    brought to the finest of their grids (bilinear, as they are drawn).

    Args:
        maps: per layer (N, T, h, w), with sizes of their own.
        how: ``max`` keeps the greatest magnitude with its sign, ``mean`` averages, ``product`` is the geometric mean of
            the magnitudes, with the sign that all agree on and zero where they do not.

    Returns:
        (N, T, h, w) of the finest grid, in -1 to 1.
    """
    finest = max((tuple(each.shape[2:]) for each in maps), key=lambda size: size[0] * size[1])
    scaled = []
    for each in maps:
        greatest = each.abs().amax((2, 3), keepdim=True)
        normalised = torch.where(greatest == 0, 0.0, each / greatest)
        scaled.append(
            functional.interpolate(normalised, finest, mode="bilinear") if each.shape[2:] != finest else normalised
        )
    stack = torch.stack(scaled)  # (layers, N, T, h, w)
    if how == "mean":
        return stack.mean(0)
    if how == "max":
        return stack.gather(0, stack.abs().argmax(0, keepdim=True)).squeeze(0)
    agree = (stack > 0).all(0).to(stack.dtype) - (stack < 0).all(0).to(stack.dtype)
    return agree * stack.abs().prod(0) ** (1 / len(stack))
