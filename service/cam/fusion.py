"""Fusion: one map of those of several layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.layers import finest_of
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.placement import AxisPlacement
    from service.vocabulary import Fuse

__all__ = ["fuse"]


def fuse(maps: Sequence[Tensor], how: Fuse, placements: Sequence[Placement] | None = None) -> Tensor:
    """Make one map of those of several layers.

    Layers differ in scale, so each map is divided by its greatest magnitude first; an all-zero map stays zero. They are
    brought to the finest of their grids (bilinear, as they are drawn): a cell of it gets what other layers say of the
    place it looks at.

    Args:
        maps: per layer (N, T, h, w), with sizes of their own.
        how: ``max`` keeps the greatest magnitude with its sign, ``mean`` averages, ``product`` is the geometric mean of
            the magnitudes, with the sign that all agree on and zero where they do not.
        placements: where the cells of each layer look; evenly spread over the input if None.

    Returns:
        (N, T, h, w) of the finest grid, in -1 to 1.
    """
    places = placements or [Placement.stretched(each.shape[2], each.shape[3], 1, 1) for each in maps]
    finest = finest_of([(each.shape[2], each.shape[3]) for each in maps])
    rows, columns = maps[finest].shape[2:]
    scaled = []
    for each, place in zip(maps, places, strict=True):
        greatest = each.abs().amax((2, 3), keepdim=True)
        normalised = torch.where(greatest == 0, 0.0, each / greatest)
        by_row = _read(normalised, 2, place.y, places[finest].y, rows)
        scaled.append(_read(by_row, 3, place.x, places[finest].x, columns))
    stack = torch.stack(scaled)  # (layers, N, T, h, w)
    if how == "mean":
        return stack.mean(0)
    if how == "max":
        return stack.gather(0, stack.abs().argmax(0, keepdim=True)).squeeze(0)
    agree = (stack > 0).all(0).to(stack.dtype) - (stack < 0).all(0).to(stack.dtype)
    return agree * stack.abs().prod(0) ** (1 / len(stack))


def _read(maps: Tensor, dim: int, axis: AxisPlacement, at: AxisPlacement, count: int) -> Tensor:
    """Read maps along ``dim`` where the ``count`` cells of another axis look; beyond the last cell its value holds."""
    size = maps.shape[dim]
    centres = torch.arange(count, device=maps.device, dtype=torch.float64) + 0.5
    position = (axis.to_cells(at.to_model(centres)) - 0.5).clamp(0, size - 1)
    lower = position.floor().long().clamp(max=max(0, size - 2))
    share = (position - lower).to(maps).view(-1, *(1,) * (maps.ndim - 1 - dim))
    upper = (lower + 1).clamp(max=size - 1)
    return torch.lerp(maps.index_select(dim, lower), maps.index_select(dim, upper), share)
