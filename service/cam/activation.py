"""Methods that look at activations alone, and those that take a principal component. Signatures as in ``gradient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.cancellation import channel_sum

if TYPE_CHECKING:
    from service.cam.context import LayerContext

__all__ = ["eigencam", "eigengradcam", "mean_activation"]


def mean_activation(context: LayerContext) -> Tensor:
    """Mean over channels of the raw filter responses; the same for every class."""
    return channel_sum(context.activations) / context.activations.shape[1]


def eigencam(context: LayerContext) -> Tensor:
    """Eigen-CAM, eq. 4: the activations projected on their first right singular vector; the same for every class.

    The sign of a singular vector is arbitrary: it is chosen so that the map agrees with the mean activation. Where
    these are at right angles, no choice is steady, and the greatest magnitude is positive.
    """
    return _first_component(context.activations)


def eigengradcam(context: LayerContext) -> Tensor:
    """Eigen-CAM of g A, which makes it class-specific; the sign agrees with HiResCAM."""
    return _first_component(context.gradients * context.activations)


# Sums over channels that cancel to less than this share of their terms are rounding errors.
_CANCELLED = 1e-4

# Steps of power iteration. Two singular values count as one where their squares differ by less than about a thousandth;
# rounding errors of the features grow by no more than twice this.
_STEPS = 1000


def _first_component(features: Tensor) -> Tensor:
    """Project (N, C, h, w) on its first right singular vector over channels: (N, h, w).

    Where the two greatest singular values are nearly equal, every vector between theirs is as good, and which of them
    is first is decided by rounding errors. The vector is therefore the one that power iteration reaches in 1000 steps
    from equal weights for all channels: the first, or of those that are nearly so the mix that agrees with the mean.

    The eigenvectors of the smaller of the two Gram matrices give what a full SVD would, 25 to 500 times faster. Maths
    in float64: squaring halves the digits. NaN where a row has NaN or infinity.
    """
    n, _, height, width = features.shape
    sound = features.isfinite().flatten(1).all(1).view(n, 1, 1)
    matrix = features.double().flatten(2).transpose(1, 2)  # (N, h*w, C)
    matrix = torch.where(sound, matrix, 0.0)  # eigh raises on anything else
    components, start = _components(matrix)
    first, values = components[:, :, -1], components.square().sum(1)  # (N, h*w), and σ² (N, R)
    steps = (values / values[:, -1:].clamp(min=torch.finfo(torch.float64).tiny)) ** _STEPS
    weights = torch.nn.functional.normalize(steps * start, dim=1, eps=torch.finfo(torch.float64).tiny)
    agreeing = (components @ weights[:, :, None]).squeeze(2)
    cancelled = _cancelled(first, matrix)
    maps = torch.where(cancelled, first * _sign_of_greatest(first), agreeing).view(n, height, width)
    return torch.where(sound, maps, torch.nan).float()


def _components(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """All projections u σ of ``matrix`` (N, h*w, C) on its right singular vectors, and the sum of each vector.

    Returns:
        (N, h*w, R) and (N, R), for the R = min(h*w, C) greatest singular values, the greatest last.
    """
    _, cells, channels = matrix.shape
    if channels <= cells:
        _, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        return matrix @ vectors, vectors.sum(1)
    values, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    lengths = values.clamp(min=0).sqrt()[:, None, :]
    components = vectors * lengths
    sums = (matrix.sum(2)[:, None, :] @ vectors).squeeze(1)  # of u times the sum over channels: σ times the sum of v
    return components, torch.where(lengths[:, 0] == 0, 0.0, sums / lengths[:, 0])


def _cancelled(projection: Tensor, matrix: Tensor) -> Tensor:
    """Whether the mean over channels says nothing of the sign of ``projection`` (N, h*w): (N, 1).

    So it is where its agreement with the sum over channels of ``matrix`` (N, h*w, C) cancels, as that of g A does at a
    layer that only a LayerNorm reads.
    """
    agreement = (projection * matrix.sum(2)).sum(1, keepdim=True)
    terms = (projection.abs() * matrix.abs().sum(2)).sum(1, keepdim=True)
    return agreement.abs() <= _CANCELLED * terms


def _sign_of_greatest(projection: Tensor) -> Tensor:
    """The sign (N, 1) that makes the greatest magnitude positive."""
    greatest = projection.gather(1, projection.abs().argmax(1, keepdim=True))
    return torch.where(greatest < 0, -1.0, 1.0)
