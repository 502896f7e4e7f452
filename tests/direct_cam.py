"""Grad-CAM by a few lines of autograd on the network itself: what every source's maps are compared with."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from service.imaging.preprocess import PreprocessSpec

__all__ = ["assert_maps_are_direct", "direct_gradcam", "normalised"]


def assert_maps_are_direct(maps: Tensor, net: nn.Module, layer: str, inputs: Tensor, classes: Sequence[int]) -> None:
    """Compare maps (classes, h, w) with those of the network itself, to 1e-5 of their maximum.

    Where float32 cannot tell them that well, as where channels of random weights cancel each other out, they must come
    as close to float64 as the network itself does in float32.
    """
    exact = copy.deepcopy(net).double()
    there, expected = (
        torch.stack([direct_gradcam(each, each.get_submodule(layer), x, target) for target in classes])
        for each, x in ((net, inputs), (exact, inputs.double()))
    )
    rounding = float((there - expected).abs().max())
    assert expected.max() > 0, f"nothing speaks for {classes} at {layer}"
    torch.testing.assert_close(
        maps.double(),
        expected,
        rtol=0,
        atol=max(1e-5 * float(expected.max()), 4 * rounding),
        msg=lambda text: f"{layer}: {text}",
    )


def direct_gradcam(net: nn.Module, layer: nn.Module, inputs: Tensor, target: int) -> Tensor:
    """Return the map (h, w) of ``target`` at ``layer``, whose output is (1, C, h, w), for ``inputs`` (1, C, H, W)."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # what comes after may write into it

    hook = layer.register_forward_hook(keep)
    try:
        logits = net(inputs.clone().requires_grad_())
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[-1:])
    weights = gradient.mean((2, 3), keepdim=True)
    return (weights * kept[-1]).sum(1).relu()[0].detach()


def normalised(pixels: Tensor, spec: PreprocessSpec) -> Tensor:
    """Return the input (N, C, H, W) that a model is given of ``pixels`` (N, H, W, C) in 0–255."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return (pixels.permute(0, 3, 1, 2).float() * spec.scale - mean) / std
