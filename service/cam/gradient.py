"""Methods that weight activations by gradients of the score.

Each returns raw maps (N, h, w) before the final ReLU: positive speaks for the class, negative against it. They are not
normalised and not upsampled, so that maps of different images and classes can be compared. A is the layer's output,
g the gradient of the score with respect to it, both (N, C, h, w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.derivatives import differentiate

if TYPE_CHECKING:
    from service.cam.context import LayerContext

__all__ = [
    "gradcam",
    "gradcam_elementwise",
    "gradcam_plus_plus",
    "hirescam",
    "layercam",
    "shapleycam",
    "weighted_sum",
    "xgradcam",
]


# What is left of a sum over channels that cancels, as a share of its terms.
_ROUNDING = 1e-5


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Sum channels with one weight each: (N, C) and (N, C, h, w) to (N, h, w)."""
    return torch.einsum("nc,nchw->nhw", weights, activations)


def gradcam(context: LayerContext) -> Tensor:
    """Grad-CAM, eq. 1 and 2: w = mean over positions of g; the map is the sum of w A."""
    return weighted_sum(context.gradients.mean((2, 3)), context.activations)


def gradcam_plus_plus(context: LayerContext) -> Tensor:
    """Grad-CAM++, eq. 19 with an exponential last layer: w = sum of α relu(g), α = g² / (2 g² + ΣA g³).

    For g ≠ 0 the quotient is 1 / (2 + ΣA g), which needs no small constant in the denominator and therefore does not
    depend on the scale of the gradient.
    """
    return weighted_sum(_plus_plus_weights(context.gradients, context.activations), context.activations)


def _plus_plus_weights(gradients: Tensor, activations: Tensor) -> Tensor:
    denominator = 2 + activations.sum((2, 3), keepdim=True) * gradients
    alpha = torch.where(denominator == 0, 0.0, 1 / denominator)
    return (alpha * gradients.relu()).sum((2, 3))


def xgradcam(context: LayerContext) -> Tensor:
    """XGrad-CAM, eq. 8: w = sum of g A / sum of A, which serves the axioms of sensitivity and conservation best."""
    total = context.activations.sum((2, 3))
    weights = (context.gradients * context.activations).sum((2, 3)) / total
    return weighted_sum(torch.where(total == 0, 0.0, weights), context.activations)


def hirescam(context: LayerContext) -> Tensor:
    """HiResCAM, eq. 4: sum over channels of g A, with no averaging of the gradient.

    At a layer that only a LayerNorm reads the terms cancel exactly, since scaling a token changes nothing behind it.
    What float32 leaves of them would be drawn as a map like any other: a row of rounding errors alone is set to zero.
    """
    products = context.gradients * context.activations
    maps = products.sum(1)
    largest, terms = maps.abs().amax((1, 2), keepdim=True), products.abs().sum(1).amax((1, 2), keepdim=True)
    return torch.where((largest <= _ROUNDING * terms) & terms.isfinite(), 0.0, maps)


def gradcam_elementwise(context: LayerContext) -> Tensor:
    """Element-wise Grad-CAM: sum over channels of relu(g A); what speaks against the class cancels nothing."""
    return (context.gradients * context.activations).relu().sum(1)


def layercam(context: LayerContext) -> Tensor:
    """LayerCAM, eq. 4 and 5: sum over channels of relu(g) A; works at shallow layers too."""
    return (context.gradients.relu() * context.activations).sum(1)


def shapleycam(context: LayerContext) -> Tensor:
    """ShapleyCAM, eq. 11: w = mean of g - H A / 2, the Shapley value of a channel to second order.

    H A is a Hessian-vector product: the gradient of g·A with A held fixed, one more pass through the tail.
    """
    raw, logits = context.raw_activations, context.forward_pass.captured.logits
    second = None
    if logits.requires_grad:
        (first,) = differentiate(logits, [raw], context.forward_pass.logit_weights, create_graph=True)
        if first is not None and first.requires_grad:
            (second,) = differentiate(first, [raw], raw.detach())
    curvature = torch.zeros_like(raw) if second is None else second
    weights = (context.gradients - 0.5 * context.layer.to_nchw(curvature).float()).mean((2, 3))
    return weighted_sum(weights, context.activations)
