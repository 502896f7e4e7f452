"""The first forward pass of a model: how it takes its input, and why it does not where it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.errors import ModelLoadError, first_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.models.inputs import Probe

__all__ = ["first_output"]


def first_output(module: nn.Module, probe: Probe) -> tuple[object, Probe]:
    """Run ``module`` on two images of noise; return what it gives, and the probe in the layout that it takes.

    Pixels come channels last, as they lie in pictures, unless it only works without: ``x.view(len(x), -1)`` of what a
    convolution makes of them raises.

    Raises:
        ModelLoadError: it fails both ways; the message says why.
    """
    try:
        return _run(module, probe.noise), probe
    except Exception as error:  # noqa: BLE001  # a model may raise anything: ViT asserts its input size, for one
        first = error
    rearranged = replace(probe, channels_last=False)
    try:
        return _run(module, rearranged.noise), rearranged
    except Exception:  # noqa: BLE001  # likewise
        raise ModelLoadError(_why(module, rearranged.noise, first)) from first


def _run(module: nn.Module, images: Tensor) -> object:
    with torch.no_grad():
        return module(images.clone())  # which it may change


def _why(module: nn.Module, images: Tensor, error: Exception) -> str:
    """Say what a model takes instead, where it can be found out by trying."""
    reason = first_line(error)
    if _works(lambda: _run(module, images[:1])):
        return (
            f"The model computes one picture at a time, but not two: {reason}. Let forward() take the number of "
            "pictures from its input, x.shape[0]."
        )
    if _works(lambda: _run(module, images.permute(0, 2, 3, 1))):
        return (
            "The model takes its pictures as (N, height, width, channels); it is given (N, channels, height, width). "
            "Let forward() begin with x = x.permute(0, 2, 3, 1)."
        )
    if _works(lambda: _run_with_gradients(module, images)):
        return (
            f"The model needs gradients in forward(), and predictions are made without: {reason}. Leave out of "
            "forward() what asks for them, such as hooks on tensors or autograd.grad(); explanations need none of it."
        )
    height, width = images.shape[2:]
    hint = _channels_hint(module, images.shape[1])
    return f"The model cannot compute a picture of {height}×{width} pixels: {reason}{hint}"


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:  # noqa: BLE001  # see above
        return False
    return True


def _run_with_gradients(module: nn.Module, images: Tensor) -> object:
    with torch.enable_grad():
        return module(images.clone().requires_grad_() * 1)


def _channels_hint(module: nn.Module, channels: int) -> str:
    """Say so where the first convolution takes another number of channels than it gets."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels == channels:
        return ""
    return f". Its first convolution takes {first.in_channels} channels: set channels={first.in_channels}."
