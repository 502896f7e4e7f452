"""Methods that weight activations by gradients of the score.

Each returns raw maps (N, h, w) before the final ReLU: positive speaks for the class, negative against it. They are not
normalised and not upsampled, so that maps of different images and classes can be compared. A is the layer's output,
g the gradient of the score with respect to it, both (N, C, h, w).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.cancellation import channel_sum, without_rounding
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


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Sum channels with one weight each: (N, C) and (N, C, h, w) to (N, h, w)."""
    maps = torch.einsum("nc,nchw->nhw", weights, activations)
    return without_rounding(maps, torch.einsum("nc,nchw->nhw", weights.abs(), activations.abs()))


def gradcam(context: LayerContext) -> Tensor:
    """Grad-CAM, eq. 1 and 2: w = mean over positions of g; the map is the sum of w A."""
    return weighted_sum(context.gradients.mean((2, 3)), context.activations)


def gradcam_plus_plus(context: LayerContext) -> Tensor:
    """Grad-CAM++, eq. 19 with an exponential last layer: w = sum of α relu(g), α = g² / (2 g² + ΣA g³).

    Where g > 0, and nowhere else does α count, the quotient is 1 / (2 + ΣA g): no small constant is needed, and the
    weights do not depend on the scale of the gradient. The derivation takes A from behind a ReLU, so that the
    denominator is 2 or more. With activations below zero it would pass through zero, and rounding errors would decide
    over the map: ΣA is therefore that of relu(A), which is the paper's wherever its assumption holds.
    """
    total = context.activations.relu().sum((2, 3), keepdim=True)
    positive = context.gradients.relu()
    return weighted_sum((positive / (2 + total * positive)).sum((2, 3)), context.activations)


def xgradcam(context: LayerContext) -> Tensor:
    """XGrad-CAM, eq. 8: w = sum of g A / sum of A, which serves the axioms of sensitivity and conservation best.

    Activations of both signs may sum up to nothing, which leaves the quotient without a bound. They are therefore taken
    for what a pair of rectified channels gives out, A = relu(A) - relu(-A), as in concatenated ReLUs
    (https://arxiv.org/abs/1603.05201), and each of the two has its own weight: a mean of its gradients, weighted by
    what is active. Both axioms hold as before; where no activation is negative, it is the paper's formula.
    """
    activations, gradients = context.activations, context.gradients
    above, below = activations.relu(), (-activations).relu()
    weights = torch.cat([_mean_where_active(gradients, above), -_mean_where_active(gradients, below)], 1)
    return weighted_sum(weights, torch.cat([above, below], 1))


def _mean_where_active(gradients: Tensor, activations: Tensor) -> Tensor:
    """The mean of ``gradients`` over positions, weighted by ``activations`` ≥ 0: (N, C); 0 where none is active."""
    total = activations.sum((2, 3))
    return torch.where(total == 0, 0.0, (gradients * activations).sum((2, 3)) / total)


def hirescam(context: LayerContext) -> Tensor:
    """HiResCAM, eq. 4: sum over channels of g A, with no averaging of the gradient.

    At a layer that only a LayerNorm reads the terms cancel, since scaling a token changes nothing behind it but for the
    norm's ε: see ``without_rounding``.
    """
    return channel_sum(context.gradients * context.activations)


def gradcam_elementwise(context: LayerContext) -> Tensor:
    """Element-wise Grad-CAM: sum over channels of relu(g A); what speaks against the class cancels nothing."""
    return (context.gradients * context.activations).relu().sum(1)


def layercam(context: LayerContext) -> Tensor:
    """LayerCAM, eq. 4 and 5: sum over channels of relu(g) A; works at shallow layers too."""
    return channel_sum(context.gradients.relu() * context.activations)


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
