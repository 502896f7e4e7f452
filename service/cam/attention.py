"""Methods for vision transformers that classify by a class token. Signatures as in ``gradient``."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from service.cam.capture import check_logits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.cam.context import LayerContext

__all__ = ["attention_rollout", "explicit_attention", "legrad", "refuse_without_class_token"]


@dataclass(frozen=True)
class _Transformer:
    """The parts of a class-token transformer: its blocks in order, their attention, and what reads the class token."""

    blocks: list[nn.Module]
    attentions: list[nn.MultiheadAttention]
    classify: Callable[[Tensor], Tensor]


def refuse_without_class_token(model: nn.Module) -> str | None:
    """Say why the methods here do not apply to ``model``, or None where they do."""
    if _parts(model) is None:
        return "it needs a transformer with a class token whose blocks use nn.MultiheadAttention (a ViT)"
    return None


def _parts(model: nn.Module) -> _Transformer | None:
    """Find torchvision's ``VisionTransformer``, by its parts rather than by its class."""
    encoder, heads = getattr(model, "encoder", None), getattr(model, "heads", None)
    layers, norm = getattr(encoder, "layers", None), getattr(encoder, "ln", None)
    if not isinstance(layers, nn.Sequential) or norm is None or heads is None:
        return None
    blocks = list(layers)
    attentions = [module for block in blocks for module in block.modules() if isinstance(module, nn.MultiheadAttention)]
    if len(attentions) != len(blocks):
        return None
    return _Transformer(blocks, attentions, lambda tokens: heads(norm(tokens)[:, 0]))


def attention_rollout(context: LayerContext) -> Tensor:
    """Attention rollout: heads averaged, half of the identity added for the skip connection, multiplied up the layers.

    The map is the class token's row of the product; the same for every class.
    """
    _, attentions = _run(context)
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
    tokens, attentions = _run(context)
    parts = _parts(context.forward_pass.model)
    assert parts is not None
    total = torch.zeros_like(attentions[0][:, 0, 0].float())
    with torch.enable_grad():
        for output, attention in zip(tokens, attentions, strict=True):
            logits = parts.classify(output)
            (gradient,) = torch.autograd.grad(
                logits,
                attention,
                context.forward_pass.logit_weights.to(logits),
                retain_graph=True,
                materialize_grads=True,
            )
            total += gradient.float().relu().mean((1, 2)) / len(attentions)  # (N, T)
    return _grid(total, context)


def _grid(per_token: Tensor, context: LayerContext) -> Tensor:
    """Bring values per token (N, T) to the patches' grid: (N, h, w)."""
    layout = context.layer.layout
    assert layout is not None
    patches = per_token[:, -layout.height * layout.width :]
    return patches.reshape(len(patches), layout.height, layout.width)


@contextmanager
def explicit_attention(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within the context, attention is computed step by step, and every attention matrix is appended to the list.

    torch's fused attention keeps the matrix to itself and has no second derivative.
    """
    attentions: list[Tensor] = []

    def attend(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...], _output: Any) -> tuple[Tensor, None]:
        mixed, attention = _self_attention(module, inputs[0])
        attentions.append(attention)
        return mixed, None

    with ExitStack() as hooks:
        for module in model.modules():
            if isinstance(module, nn.MultiheadAttention) and module.batch_first:
                hooks.callback(module.register_forward_hook(attend).remove)
        yield attentions


def _run(context: LayerContext) -> tuple[list[Tensor], list[Tensor]]:
    """Run the model; return every block's output (N, T, C) and every attention (N, heads, T, T), with their graph."""
    parts = _parts(context.forward_pass.model)
    assert parts is not None
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        outputs.append(output)

    with ExitStack() as hooks, torch.inference_mode(mode=False), torch.enable_grad():
        attentions = hooks.enter_context(explicit_attention(context.forward_pass.model))
        for block in parts.blocks:
            hooks.callback(block.register_forward_hook(keep).remove)
        # The input asks for a gradient so that frozen parameters do not leave the attention without a graph.
        check_logits(
            context.forward_pass.model(context.forward_pass.inputs.detach().requires_grad_()),
            len(context.forward_pass.inputs),
        )
    return outputs, attentions


def _self_attention(module: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What ``module`` computes for ``tokens`` (N, T, C), with its attention (N, heads, T, T) as part of the graph.

    The module itself returns a copy that nothing depends on, or fuses it away.
    """
    n, length, width = tokens.shape
    projected = nn.functional.linear(tokens, module.in_proj_weight, module.in_proj_bias)
    query, key, value = projected.view(n, length, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, T, d)
    attention = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
    mixed = (attention @ value).transpose(1, 2).reshape(n, length, width)
    return module.out_proj(mixed), attention
