"""Methods for vision transformers that classify by a class token. Signatures as in ``gradient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.capture import same_logits
from service.cam.derivatives import differentiate
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from service.cam.context import LayerContext
    from service.cam.network import AttentionCapture, Network

__all__ = ["attention_rollout", "legrad", "refuse_without_class_token"]


def refuse_without_class_token(network: Network, images: Tensor) -> str | None:
    """Say why the methods here do not apply to ``network``, tried on ``images``; None where they do."""
    if not network.has_class_token:
        return "it needs a transformer with a class token whose blocks use nn.MultiheadAttention (a ViT)"
    try:
        captured = network.capture_attention(images)
    except ModelOutputError as error:
        return error.message.removesuffix(".")
    if not same_logits(captured.classify(captured.tokens[-1]), network.predict(images), images.dtype):
        return "the model's logits are not what its heads make of the class token after the last block"
    return None


def attention_rollout(context: LayerContext) -> Tensor:
    """Attention rollout: heads averaged, half of the identity added for the skip connection, multiplied up the layers.

    The map is the class token's row of the product; the same for every class.
    """
    attentions = [attention.weights for attention in _capture(context).attentions]
    tokens = attentions[0].shape[-1]
    identity = torch.eye(tokens, device=attentions[0].device)
    rollout = identity
    for attention in attentions:
        mixed = 0.5 * attention.detach().float().mean(1) + 0.5 * identity  # (N, T, T), rows sum to 1
        rollout = mixed @ rollout
    return _grid(rollout[:, 0], context)


def legrad(context: LayerContext) -> Tensor:
    """LeGrad, eq. 4-7: how much each layer's own score would grow with its attention to each patch.

    The score of layer l is what the classifier makes of the class token after block l. Its gradient with respect to the
    layer's attention is rectified, averaged over heads and queries, and averaged over the layers.
    """
    captured, logit_weights = _capture(context), context.forward_pass.logit_weights
    shape = captured.attentions[0].weights.shape  # (N, heads, T, T)
    total = torch.zeros(shape[0], shape[-1], device=context.forward_pass.inputs.device)
    with torch.enable_grad():
        for block, (tokens, attention) in enumerate(zip(captured.tokens, captured.attentions, strict=True)):
            context.checkpoint(block, len(captured.tokens))
            assert attention.edge is not None
            (gradient,) = differentiate(captured.classify(tokens), [attention.edge], logit_weights)
            if gradient is not None:
                total += gradient.view(shape).float().relu().mean((1, 2)) / len(captured.attentions)  # (N, T)
    return _grid(total, context)


def _capture(context: LayerContext) -> AttentionCapture:
    return context.forward_pass.network.capture_attention(context.forward_pass.inputs)


def _grid(per_token: Tensor, context: LayerContext) -> Tensor:
    """Bring values per token (N, T) to the patches' grid: (N, h, w)."""
    layout = context.layer.layout
    assert layout is not None
    patches = per_token[:, -layout.height * layout.width :]
    return patches.reshape(len(patches), layout.height, layout.width)
