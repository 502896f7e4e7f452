"""Transformers that classify by a class token: their parts, and their attention as it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Attention", "AttentionRecorder", "Transformer", "find_transformer"]


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


@dataclass(frozen=True)
class Attention:
    """One call of multi-head attention.

    Attributes:
        weights: of every head, (N, heads, T, S): how much each of T tokens takes from each of S.
        edge: where the weights stand in the graph, as (N·heads, T, S). The module itself returns a copy, which nothing
            depends on.
        among_tokens: whether the tokens attend to themselves alone, so that T and S are the same tokens.
    """

    weights: Tensor
    edge: GradientEdge | None
    among_tokens: bool


class AttentionRecorder(TorchFunctionMode):
    """While active in a thread, keeps the weights of every multi-head attention, which PyTorch else fuses away."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Attention] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, and look on if it is attention."""
        del types
        if func is functional.multi_head_attention_forward:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *args: Any,
        need_weights: bool = True,
        average_attn_weights: bool = True,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        explicit = kwargs | {"need_weights": True, "average_attn_weights": False}
        mixed, weights = functional.multi_head_attention_forward(query, key, value, *args, **explicit)
        assert weights is not None
        square = weights.shape[-1] == weights.shape[-2]
        among_tokens = query is key and key is value and square
        self.calls.append(Attention(weights, _softmax_of(weights), among_tokens))
        if not need_weights:
            return mixed, None
        return mixed, weights.mean(-3) if average_attn_weights else weights


def _softmax_of(weights: Tensor) -> GradientEdge | None:
    """The place in the graph that ``weights``, which the module returns, are a view of."""
    if weights.grad_fn is None:
        return None
    softmax, output = weights.grad_fn.next_functions[0]
    return None if softmax is None else GradientEdge(softmax, output)
