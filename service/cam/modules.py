"""What a module is, by its type alone: what the catalogue says of layers that it has not run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from typing import Self

    from service.vocabulary import LayerKind

__all__ = ["ModuleDescription"]

_KINDS: dict[LayerKind, tuple[str, ...]] = {
    "conv": ("Conv",),
    "norm": ("Norm",),
    "pool": ("Pool",),
    "linear": ("Linear", "Dense"),
}

_ACTIVATIONS = ("torch.nn.modules.activation", "keras.src.layers.activations")


@dataclass(frozen=True)
class ModuleDescription:
    """A module of a network, not yet run.

    Attributes:
        type: its class name.
        kind: ``conv``, ``norm``, ``activation``, ``pool``, ``attention``, ``linear``, ``block`` or ``other``.
        channels: on which side of rows and columns its output has its channels; None where either may be.
        weighted: whether it has parameters of its own.
        watchable: whether its output can be seen; that of TorchScript cannot.
    """

    type: str
    kind: LayerKind
    channels: Literal["first", "last"] | None
    weighted: bool
    watchable: bool = True

    @classmethod
    def of(cls, module: nn.Module) -> Self:
        """Describe ``module``."""
        weighted = any(True for _ in module.parameters(recurse=False))
        watchable = not isinstance(module, torch.jit.ScriptModule)
        return cls(type(module).__name__, _kind(module), _channels(module), weighted, watchable)


def _kind(module: nn.Module) -> LayerKind:
    name = type(module).__name__
    if isinstance(module, nn.MultiheadAttention) or "Attention" in name:
        return "attention"
    if any(True for _ in module.children()) or isinstance(module, nn.Sequential):
        return "block"
    for kind, marks in _KINDS.items():
        if any(mark in name for mark in marks):
            return kind
    return "activation" if type(module).__module__.startswith(_ACTIVATIONS) else "other"


def _channels(module: nn.Module) -> Literal["first", "last"] | None:
    if "2d" in type(module).__name__:  # Conv2d, BatchNorm2d, MaxPool2d, and everybody's variants of them
        return "first"
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return "last" if len(module.normalized_shape) == 1 else None
    return "last" if isinstance(module, nn.Linear) else None
