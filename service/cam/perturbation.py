"""Methods that run the model again on changed pictures or activations, in chunks of bounded memory.

Signatures as in ``gradient``. They cost up to one forward pass, or one pass through the tail, per channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from service.cam.capture import capture, gradients
from service.cam.gradient import weighted_sum

if TYPE_CHECKING:
    from service.cam.context import Study

__all__ = ["ablationcam", "noise_like", "scorecam", "smoothgradcam_plus_plus"]

_SMOOTH_SAMPLES = 8
# SmoothGrad (https://arxiv.org/abs/1706.03825) finds 10-20 % of the input's range best.
_NOISE_LEVEL = 0.15


def scorecam(study: Study) -> Tensor:
    """Score-CAM, algorithm 1: channels weighted by the softmax of the score of the picture that each of them masks.

    Masks are the channels, scaled to 0-1 each and upsampled to the input.
    """
    rows, channels = study.activations.shape[:2]
    _, depth, height, width = study.on.inputs.shape
    low = study.activations.amin((2, 3), keepdim=True)
    masks = study.activations - low
    masks = masks / (masks.amax((2, 3), keepdim=True) + 1e-8)  # (N, C, h, w)
    scores = torch.empty(rows, channels)
    for row in range(rows):
        for chunk in study.chunks(channels, 16 * depth * height * width, row * channels, rows * channels):
            mask = functional.interpolate(masks[row, chunk, None], (height, width), mode="bilinear")  # (M, 1, H, W)
            logits = study.predict(study.on.inputs[row] * mask.to(study.on.inputs.dtype))
            scores[row, chunk] = study.scores(logits, row).cpu()
    return weighted_sum(scores.softmax(1).to(study.activations.device), study.activations)


def ablationcam(study: Study) -> Tensor:
    """Ablation-CAM, eq. 3: a channel's weight is the share of the score that is lost when the channel is set to zero.

    Divided by the score's absolute value rather than the score, so that a lost channel counts in favour of the class
    where the logit is negative, too; for positive logits it is the paper's formula.
    """
    rows, channels, height, width = study.activations.shape
    weights = torch.empty(rows, channels)
    for row in range(rows):
        whole = study.scores(study.on.captured.logits[row : row + 1], row).cpu()
        for chunk in study.chunks(channels, channels * height * width, row * channels, rows * channels):
            ablated = study.activations[row].repeat(chunk.stop - chunk.start, 1, 1, 1)  # (M, C, h, w)
            ablated[range(len(ablated)), range(chunk.start, chunk.stop)] = 0
            weights[row, chunk] = whole - study.scores(study.predict_from(row, ablated), row).cpu()
        weights[row] /= whole.abs().clamp(min=1e-12)
    return weighted_sum(weights.to(study.activations.device), study.activations)


def smoothgradcam_plus_plus(study: Study) -> Tensor:
    """Smooth Grad-CAM++, eq. 6-8: Grad-CAM++ with g, g² and g³ averaged over noisy copies of the picture."""
    first, second, third = (torch.zeros_like(study.activations) for _ in range(3))
    for sample in range(_SMOOTH_SAMPLES):
        study.on.between(sample, _SMOOTH_SAMPLES)
        noisy = study.on.inputs + noise_like(study.on.inputs, sample)
        captured = capture(study.on.model, noisy, [study.layer.call])
        found = study.layer.to_nchw(gradients(captured, study.on.direction)[study.layer.call]).float()
        first += found / _SMOOTH_SAMPLES
        second += found**2 / _SMOOTH_SAMPLES
        third += found**3 / _SMOOTH_SAMPLES
    denominator = 2 * second + study.activations.sum((2, 3), keepdim=True) * third
    alpha = torch.where(denominator == 0, 0.0, second / denominator)
    return weighted_sum((alpha * first.relu()).sum((2, 3)), study.activations)


def noise_like(inputs: Tensor, sample: int) -> Tensor:
    """Gaussian noise for ``inputs`` (N, 3, H, W), 15 % of each row's range.

    The same for every row and at every start, so that an answer depends neither on batch-mates nor on luck.
    """
    generator = torch.Generator().manual_seed(sample)
    noise = torch.randn(inputs.shape[1:], generator=generator).to(inputs)
    span = inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True)
    return _NOISE_LEVEL * span * noise
