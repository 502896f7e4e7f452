"""The same network with a random head, to see whether a map depends on what the network has learned of its classes.

A random weighting of the logits would not do: whatever combination of the classes' own weights one takes, it lies in
the space that these span, which of few classes is a small part of what a head could read. So the last layer computes
its output anew, from the same input, with its weights in a random order. It is a copy that does so; the model's own
layer is neither changed nor moved.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["matrices_of", "shuffled_copy", "with_random_weights"]


def matrices_of(module: nn.Module) -> dict[str, Tensor]:
    """Return what a module itself multiplies by: its own parameters and buffers of two axes or more, by name."""
    own = {**module._parameters, **module._buffers}
    return {name: each for name, each in own.items() if each is not None and each.ndim > 1 and each.is_floating_point()}


def shuffled_copy(module: nn.Module, names: Collection[str], seed: int) -> nn.Module:
    """Return a copy of a module, with the same submodules, whose own tensors ``names`` are in a random order.

    It is the same order for the same seed. The numbers, and so the scale of what comes out, are the module's own.
    """
    other = copy.copy(module)
    for kind in ("_parameters", "_buffers"):
        own = getattr(module, kind)
        setattr(other, kind, {name: _shuffled(each, seed) if name in names else each for name, each in own.items()})
    return other


def with_random_weights(module: nn.Module, seed: int, *, beside: bool = False) -> Callable[[Any, Any, Any], Any]:
    """Return a forward hook that gives out what ``module`` would if its weights were in a random order.

    ``beside`` its own output: as many rows more, which what follows takes for other pictures.
    """
    other = shuffled_copy(module, matrices_of(module), seed)

    def compute(_module: nn.Module, inputs: Any, output: Any) -> Any:
        try:
            found = other.forward(*inputs)
        except TypeError as error:
            raise ModelOutputError("The last layer takes more than its positional arguments.") from error
        if isinstance(found, Tensor) and isinstance(output, Tensor) and torch.equal(found, output):
            raise ModelOutputError("The last layer gives out the same whatever its weights are.")
        return torch.cat([output, found]) if beside else found

    return compute


def _shuffled(tensor: Tensor, seed: int) -> nn.Parameter:
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(seed)).to(tensor.device)
    with torch.inference_mode(mode=False), torch.no_grad():
        shuffled = tensor.detach().flatten()[order].view(tensor.shape)
    return nn.Parameter(shuffled, requires_grad=False)
