"""Methods that look at activations alone, and those that take a principal component. Signatures as in ``gradient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from service.cam.context import LayerContext

__all__ = ["eigencam", "eigengradcam", "mean_activation"]


def mean_activation(context: LayerContext) -> Tensor:
    """Mean over channels of the raw filter responses; the same for every class."""
    return context.activations.mean(1)


def eigencam(context: LayerContext) -> Tensor:
    """Eigen-CAM, eq. 4: the activations projected on their first right singular vector; the same for every class.

    The sign of a singular vector is arbitrary: it is chosen so that the map agrees with the mean activation.
    """
    return _first_component(context.activations)


def eigengradcam(context: LayerContext) -> Tensor:
    """Eigen-CAM of g A, which makes it class-specific; the sign agrees with HiResCAM."""
    return _first_component(context.gradients * context.activations)


# Sums over channels that cancel to less than this share of their terms are rounding errors.
_CANCELLED = 1e-4


def _first_component(features: Tensor) -> Tensor:
    """Project (N, C, h, w) on its first right singular vector over channels: (N, h, w).

    The eigenvectors of the smaller of the two Gram matrices give what a full SVD would, 25 to 500 times faster. Maths
    in float64: squaring halves the digits. NaN where a row has NaN or infinity.
    """
    n, channels, height, width = features.shape
    sound = features.isfinite().flatten(1).all(1).view(n, 1, 1)
    matrix = features.double().flatten(2).transpose(1, 2)  # (N, h*w, C)
    matrix = torch.where(sound, matrix, 0.0)  # eigh raises on anything else
    if channels <= height * width:
        _, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        projection = (matrix @ vectors[:, :, -1:]).squeeze(2)  # (N, h*w)
    else:
        values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        projection = vectors[:, :, -1] * values[:, -1:].clamp(min=0).sqrt()  # u₁ σ₁ = M v₁
    maps = (projection * _sign(projection, matrix)).view(n, height, width)
    return torch.where(sound, maps, torch.nan).float()


def _sign(projection: Tensor, matrix: Tensor) -> Tensor:
    """The sign (N, 1) that makes ``projection`` (N, h*w) agree with the sum over channels of ``matrix`` (N, h*w, C).

    Where that sum cancels, as g A does at a layer that only a LayerNorm reads, the greatest magnitude is positive.
    """
    agreement = (projection * matrix.sum(2)).sum(1, keepdim=True)
    terms = (projection.abs() * matrix.abs().sum(2)).sum(1, keepdim=True)
    greatest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    deciding = torch.where(agreement.abs() > _CANCELLED * terms, agreement, greatest)
    return torch.where(deciding < 0, -1.0, 1.0)
