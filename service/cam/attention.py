"""Methods for transformers whose attention among tokens can be read. Signatures as in ``gradient``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.capture import same_logits
from service.cam.derivatives import differentiate
from service.cam.layers import MAX_SPECIAL_TOKENS
from service.errors import MethodNotApplicable, ModelOutputError

if TYPE_CHECKING:
    from torch.autograd.graph import GradientEdge

    from service.cam.context import LayerContext
    from service.cam.network import AttentionCapture, Network

__all__ = ["attention_rollout", "legrad", "refuse_without_attention", "refuse_without_blocks"]


def refuse_without_attention(network: Network, images: Tensor) -> str | None:
    """Say why attention rollout does not apply to ``network``, tried on ``images``; None where it does."""
    found = _tried(network, images)
    return found if isinstance(found, str) else None


def refuse_without_blocks(network: Network, images: Tensor) -> str | None:
    """Say why LeGrad does not apply to ``network``, tried on ``images``; None where it does."""
    found = _tried(network, images)
    if isinstance(found, str):
        return found
    if found.blocks is None:
        return "its blocks cannot be told apart, or its answer depends on more than the last one's tokens"
    if any(attention.edge is None for attention in found.attentions):
        return "a part of the network computes its attention without a graph, as torch.no_grad() does"
    return None


def _tried(network: Network, images: Tensor) -> AttentionCapture | str:
    """Read the attention; return why it cannot be read instead, as a clause."""
    try:
        captured = network.capture_attention(images)
    except ModelOutputError as error:
        return error.message[:1].lower() + error.message[1:].removesuffix(".")
    if not same_logits(captured.logits[-len(images) :], network.predict(images), images.dtype):
        return "the network gives other logits than its own when its attention is read"
    return captured


def attention_rollout(context: LayerContext) -> Tensor:
    """Attention rollout: heads averaged, half of the identity added for the skip connection, multiplied up the layers.

    The map is the row of the product that belongs to the token which the classifier reads, or the mean over these
    tokens' rows where it reads several; the same for every class.
    """
    captured = _recorded(context)
    rollout = torch.eye(captured.attentions[0].weights.shape[-1], device=context.forward_pass.inputs.device)
    identity = rollout
    for attention in captured.attentions:
        mixed = 0.5 * attention.weights.detach().float().mean(1) + 0.5 * identity  # (N, T, T), rows sum to 1
        rollout = mixed @ rollout
    read = _tokens_read(captured, context)  # (N, T)
    return _grid((read[:, None] @ rollout)[:, 0], context)


def _tokens_read(captured: AttentionCapture, context: LayerContext) -> Tensor:
    """Return equal weights (N, T), summing to 1, on the tokens that the logits depend on behind the last attention.

    Where there is no gradient at all, as with a head of zeros, that is the first of the special tokens, or every token.
    """
    rows, _, tokens, _ = captured.attentions[-1].weights.shape
    where: list[Tensor] | list[GradientEdge | None]
    where = [captured.blocks.read] if captured.blocks else [captured.attentions[-1].edge]
    read = torch.zeros(rows, tokens, dtype=torch.bool, device=context.forward_pass.inputs.device)
    if captured.logits.requires_grad and where[0] is not None:
        # Squared, so that logits that sum to a constant still have a gradient.
        squared = captured.logits.float().square()
        (gradient,) = differentiate(squared, where, torch.ones_like(squared))  # type: ignore[arg-type]
        if gradient is not None and captured.blocks:
            read = gradient[-rows:].any(2)
        elif gradient is not None:
            read = gradient.view(captured.attentions[-1].weights.shape).any(3).any(1)
    layout = context.layer.layout
    assert layout is not None
    special = tokens - layout.height * layout.width
    usual = torch.arange(tokens, device=read.device) < (1 if special > 0 else tokens)
    read = torch.where(read.any(1, keepdim=True), read, usual)
    return read.float() / read.sum(1, keepdim=True)


def legrad(context: LayerContext) -> Tensor:
    """LeGrad, eq. 4-7: how much each layer's own score would grow with its attention to each patch.

    The score of layer l is what the network makes of the tokens after block l, as if it were the last. Its gradient
    with respect to the layer's attention is rectified, averaged over heads and queries, and averaged over the layers.
    """
    captured, logit_weights = _recorded(context), context.forward_pass.logit_weights
    blocks = captured.blocks
    assert blocks is not None
    shape = captured.attentions[0].weights.shape  # (N, heads, T, T)
    total = torch.zeros(shape[0], shape[-1], device=context.forward_pass.inputs.device)
    with torch.enable_grad():
        (by_tokens,) = differentiate(captured.logits, [blocks.read], logit_weights.repeat(len(blocks.tokens), 1))
        if by_tokens is None:
            return _grid(total, context)
        each = zip(blocks.tokens, captured.attentions, by_tokens.chunk(len(blocks.tokens)), strict=True)
        for block, (tokens, attention, by_own_tokens) in enumerate(each):
            context.checkpoint(block, len(blocks.tokens))
            assert attention.edge is not None
            (gradient,) = differentiate(tokens, [attention.edge], by_own_tokens)
            if gradient is not None:
                total += gradient.view(attention.weights.shape).float().relu().mean((1, 2)) / len(
                    blocks.tokens
                )  # (N, T)
    return _grid(total, context)


def _recorded(context: LayerContext) -> AttentionCapture:
    attention = context.forward_pass.captured.attention
    assert attention is not None, "see Method.reads_attention"
    return attention


def _grid(per_token: Tensor, context: LayerContext) -> Tensor:
    """Bring values per token (N, T) to the patches' grid: (N, h, w).

    Raises:
        MethodNotApplicable: the layer that was asked for has another grid.
    """
    layout, tokens = context.layer.layout, per_token.shape[1]
    assert layout is not None
    places = layout.height * layout.width
    if not places <= tokens <= places + MAX_SPECIAL_TOKENS:
        raise MethodNotApplicable(
            f"Layer {context.layer.name!r} has {layout.height} × {layout.width} cells, and the map of this method one "
            f"for each of {tokens} tokens. Ask for it at a layer of that grid, such as the default."
        )
    if layout.kind == "tokens" and layout.special + places == tokens:
        return context.layer.to_nchw(per_token[:, :, None])[:, 0]
    return per_token[:, tokens - places :].reshape(len(per_token), layout.height, layout.width)
