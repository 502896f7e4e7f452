"""Methods that run the network again on changed images or activations, in chunks of bounded memory.

Signatures as in ``gradient``. They cost up to one forward pass, or one pass through the tail, per channel.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from service.cam.cancellation import stretched
from service.cam.capture import gradients
from service.cam.gradient import weighted_sum
from service.cam.methods import METHODS
from service.cam.work import rows_at_once

if TYPE_CHECKING:
    from service.cam.context import LayerContext

__all__ = ["ablationcam", "noise_like", "scorecam", "smoothgradcam_plus_plus"]

_SMOOTH_SAMPLES = 8
# SmoothGrad (https://arxiv.org/abs/1706.03825) finds 10-20 % of the input's range best.
_NOISE_LEVEL = 0.15
# Of the greatest loss, or logit, in Ablation-CAM.
_LEAST_SCORE = 0.01


def scorecam(context: LayerContext) -> Tensor:
    """Score-CAM, algorithm 1: channels weighted by the softmax of the score of the image that each of them masks.

    Masks are the channels, scaled to 0-1 each and upsampled to the input. A channel that is the same everywhere masks
    everything, and one that hardly varies, next to the greatest activation, most of it: see ``stretched``.

    Masks are those of the row alone: of a channel that hardly varies, rounding moves the mask by a hundred times as
    much, and would show in the map what batch the row was in.
    """
    scores = context.for_all_targets("scorecam", partial(_masked_scores, context))  # (N, C)
    return weighted_sum(scores.softmax(1).to(context.activations.device), context.activations)


def _masked_scores(context: LayerContext, logit_weights: Tensor) -> Tensor:
    """Return the scores (K, N, C) of K targets for the image that each channel masks."""
    network, inputs = context.forward_pass.network, context.forward_pass.inputs
    rows, channels = context.activations.shape[:2]
    _, depth, height, width = inputs.shape
    found = torch.empty(len(logit_weights), rows, channels)
    for row in range(rows):
        context.checkpoint(row * channels, rows * channels)
        masks = stretched(_alone(context, row)[1], (2, 3))  # (1, C, h, w)
        for chunk in context.chunks(channels, 16 * depth * height * width, row * channels, rows * channels):
            mask = functional.interpolate(masks[0, chunk, None], (height, width), mode="bilinear")  # (M, 1, H, W)
            logits = network.predict(inputs[row] * mask.to(inputs.dtype))
            found[:, row, chunk] = _scores(logits, logit_weights[:, row])
    return found


def ablationcam(context: LayerContext) -> Tensor:
    """Ablation-CAM, eq. 3: a channel's weight is the share of the score that is lost when the channel is set to zero.

    Divided by the score's absolute value rather than the score, so that a lost channel counts in favour of the class
    where the logit is negative, too; for positive logits it is the paper's formula. Of a score that is nearly zero,
    next to what it is made of, rounding errors are a large share, and would be one of all weights: the denominator is
    a hundredth of the greatest loss and of the greatest logit at least.

    One error of the whole score is an error of every weight: times the sum of many channels it would show in the map
    what was computed together. So all scores are those of the row alone, and every chunk is compared with the whole
    activations beside it, which are rounded as the chunk is; a chunk of one with the whole activations alone.
    """
    weights = context.for_all_targets("ablationcam", partial(_shares_lost, context))  # (N, C)
    return weighted_sum(weights.to(context.activations.device), context.activations)


def _shares_lost(context: LayerContext, logit_weights: Tensor) -> Tensor:
    """Return the share of each of K scores that is lost with each channel: (K, N, C)."""
    rows, channels, height, width = context.activations.shape
    weights = torch.empty(len(logit_weights), rows, channels)
    for row in range(rows):
        context.checkpoint(row * channels, rows * channels)
        asked = logit_weights[:, row]
        logits, activations = _alone(context, row)
        # A copy, as whatever follows the layer may write into it.
        whole = _scores(context.resume(row, activations.clone()), asked)  # (K, 1)
        for chunk in context.chunks(channels, channels * height * width, row * channels, rows * channels):
            size = chunk.stop - chunk.start
            beside = min(size - 1, 1)
            ablated = activations.repeat(beside + size, 1, 1, 1)  # (M, C, h, w)
            ablated[range(beside, len(ablated)), range(chunk.start, chunk.stop)] = 0
            scores = _scores(context.resume(row, ablated), asked)
            weights[:, row, chunk] = (scores[:, :1] if beside else whole) - scores[:, beside:]
        greatest = torch.maximum(weights[:, row].abs().amax(1), _greatest(logits, asked, context.heads))
        weights[:, row] /= torch.maximum(whole[:, 0].abs(), (_LEAST_SCORE * greatest).clamp(min=1e-12))[:, None]
    return weights


def _scores(logits: Tensor, logit_weights: Tensor) -> Tensor:
    """Return the scores (K, M) of K targets for logits (M, classes), on the CPU."""
    return logit_weights @ logits.detach().float().cpu().t()


def _greatest(logits: Tensor, logit_weights: Tensor, heads: int) -> Tensor:
    """Return the greatest logit, without its sign, of the head that each of K targets is a class of: (K,)."""
    by_head = logits.detach().float().cpu().abs().view(heads, -1).amax(1)  # (heads,)
    asked = logit_weights.view(len(logit_weights), heads, -1).any(2)
    return (asked * by_head).amax(1)


def _alone(context: LayerContext, row: int) -> tuple[Tensor, Tensor]:
    """Compute a row without the others of its batch: logits (1, classes) and activations (1, C, h, w)."""
    forward_pass, layer = context.forward_pass, context.layer
    captured = forward_pass.network.capture(forward_pass.inputs[row : row + 1], [layer.call], derivatives=0)
    return captured.logits, layer.to_nchw(captured.activations[layer.call]).float()


def smoothgradcam_plus_plus(context: LayerContext) -> Tensor:
    """Smooth Grad-CAM++, eq. 6-8: Grad-CAM++ with g, g² and g³ averaged over noisy copies of the image.

    As there, the denominator is for activations and gradients that are not negative: ΣA is that of relu(A), and in the
    mean of g³ a copy in which g is negative counts as zero. Otherwise a mean g above zero could meet a mean g³ below.
    """

    def compute(logit_weights: Tensor) -> Tensor:
        most = rows_at_once(len(logit_weights), METHODS["smoothgradcam++"].work.kept * context.activations[0].numel())
        return torch.cat([_smooth_weights(context, some) for some in torch.split(logit_weights, most)])

    return weighted_sum(context.for_all_targets("smoothgradcam++", compute), context.activations)


def _smooth_weights(context: LayerContext, logit_weights: Tensor) -> Tensor:
    """Return the weights of channels (K, N, C) for K targets."""
    forward_pass, layer = context.forward_pass, context.layer
    # Powers of small gradients leave the range of float32.
    zero = context.activations.new_zeros((len(logit_weights), *context.activations.shape), dtype=torch.float64)
    first, second, third = zero, zero.clone(), zero.clone()
    steps = _SMOOTH_SAMPLES * (1 + len(logit_weights))
    for sample in range(_SMOOTH_SAMPLES):
        done = sample * (1 + len(logit_weights))
        context.checkpoint(done, steps)
        noisy = forward_pass.inputs + noise_like(forward_pass.inputs, sample)
        captured = forward_pass.network.capture(noisy, [layer.call])
        for k, weights in enumerate(logit_weights):
            context.checkpoint(done + 1 + k, steps)
            found = layer.to_nchw(gradients(captured, weights)[layer.call]).double()
            first[k] += found / _SMOOTH_SAMPLES
            second[k] += found**2 / _SMOOTH_SAMPLES
            third[k] += found.relu() ** 3 / _SMOOTH_SAMPLES
    denominator = 2 * second + context.activations.relu().sum((2, 3), keepdim=True) * third
    alpha = torch.where(denominator == 0, 0.0, second / denominator)
    return (alpha * first.relu()).sum((3, 4)).float()


def noise_like(inputs: Tensor, sample: int) -> Tensor:
    """Gaussian noise for ``inputs`` (N, 3, H, W), 15 % of each row's range.

    It is the same for every row and at every start, so that an answer is repeatable and depends on no other row.
    """
    generator = torch.Generator().manual_seed(sample)
    noise = torch.randn(inputs.shape[1:], generator=generator).to(inputs)
    span = inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True)
    return _NOISE_LEVEL * span * noise
