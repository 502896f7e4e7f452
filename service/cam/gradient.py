"""Methods that need the gradients of the score.

Each turns activations and gradients, both (N, C, h, w) float32, into raw maps (N, h, w): not normalised, not upsampled,
so that maps of different pictures and classes can be compared. ``methods.METHODS`` has a row for each.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gradcam"]


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM, eq. 1 and 2: channels weighted by the spatial mean of their gradient, summed, positive part.

    Args:
        activations: (N, C, h, w).
        gradients: of the score with respect to the activations, (N, C, h, w).

    Returns:
        (N, h, w), not negative, in units of the score.
    """
    weights = gradients.mean(dim=(2, 3))  # (N, C)
    return torch.einsum("nc,nchw->nhw", weights, activations).relu()
