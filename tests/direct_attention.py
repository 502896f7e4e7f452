"""Attention rollout and LeGrad by a few lines on attention that was read elsewhere: what maps are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["direct_legrad", "direct_rollout"]


def direct_rollout(attentions: Sequence[Tensor], read: Sequence[int]) -> Tensor:
    """Return the rollout (T,) of attention (1, heads, T, T), block by block, for the mean of the tokens ``read``."""
    size = attentions[0].shape[-1]
    product = torch.eye(size, dtype=attentions[0].dtype)
    for attention in attentions:
        product = (attention[0].detach().mean(0) + torch.eye(size)) / 2 @ product
    return product[list(read)].mean(0)


def direct_legrad(
    tokens: Sequence[Tensor], attentions: Sequence[Tensor], classify: Callable[[Tensor], Tensor], target: int
) -> Tensor:
    """Return LeGrad (T,) of the output of every block (1, T, C), and of its attention (1, heads, T, T)."""
    layers = []
    for each, attention in zip(tokens, attentions, strict=True):
        (gradient,) = torch.autograd.grad(classify(each)[0, target], attention, retain_graph=True)
        layers.append(gradient[0].relu().mean((0, 1)))
    return torch.stack(layers).mean(0)
