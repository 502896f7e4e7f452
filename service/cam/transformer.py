"""Transformers that classify by a class token: their parts, and their attention computed step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Transformer", "find_transformer", "self_attention"]


@dataclass(frozen=True)
class Transformer:
    """The blocks of a class-token transformer, in order, and what makes logits (N, classes) of tokens (N, T, C)."""

    blocks: list[nn.Module]
    classify: Callable[[Tensor], Tensor]


def find_transformer(module: nn.Module) -> Transformer | None:
    """Find torchvision's ``VisionTransformer``, by its parts rather than by its class; None where they are not there.

    Every block must have one ``nn.MultiheadAttention``.
    """
    encoder, heads = getattr(module, "encoder", None), getattr(module, "heads", None)
    layers, norm = getattr(encoder, "layers", None), getattr(encoder, "ln", None)
    if not isinstance(layers, nn.Sequential) or norm is None or heads is None:
        return None
    attentions = [each for each in layers.modules() if isinstance(each, nn.MultiheadAttention)]
    if len(attentions) != len(layers):
        return None
    return Transformer(list(layers), lambda tokens: heads(norm(tokens)[:, 0]))


def self_attention(module: nn.MultiheadAttention, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what ``module`` makes of ``tokens`` (N, T, C), with its attention (N, heads, T, T) as part of the graph.

    The module itself returns a copy that nothing depends on, or fuses it away.
    """
    n, length, width = tokens.shape
    projected = nn.functional.linear(tokens, module.in_proj_weight, module.in_proj_bias)
    query, key, value = projected.view(n, length, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)  # (N, heads, T, d)
    attention = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
    mixed = (attention @ value).transpose(1, 2).reshape(n, length, width)
    return module.out_proj(mixed), attention
