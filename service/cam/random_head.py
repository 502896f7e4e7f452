"""The same network with a last layer that has learned nothing: what its maps show is not what the classes are."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["with_random_head"]


def with_random_head(module: nn.Module, classes: int, seed: int) -> nn.Module | None:
    """Return a copy whose last layer with an output per class has random weights, as large as they were.

    Returns:
        The copy; None where no linear layer or convolution has so many outputs, or the module cannot be copied.
    """
    try:
        changed = copy.deepcopy(module)
    except (RuntimeError, TypeError, NotImplementedError):  # tensors with a graph, handles, locks
        return None
    heads = [each for each in changed.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    heads = [each for each in heads if len(each.weight) == classes]
    if not heads:
        return None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in heads[-1].parameters():
            scale = parameter.float().std().nan_to_num().item() if parameter.numel() > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return changed
