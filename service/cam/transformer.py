"""Attention as it is computed, whoever computes it, and the blocks of a transformer that it stands in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from service.cam.derivatives import attend_in_full
from service.cam.layers import LayerCall
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Attention", "AttentionRecorder", "BlockFinder"]


@dataclass(frozen=True)
class Attention:
    """One call of attention.

    Attributes:
        weights: of every head, (N, heads, T, S): how much each of T tokens takes from each of S. As they are recorded,
            N and heads may be one axis.
        edge: where the weights stand in the graph, in any shape of as many numbers; what the attention gives out
            depends on it. None where nothing records a graph.
        own: whether tokens attend to themselves, as far as one can tell by what the attention was given.
    """

    weights: Tensor
    edge: GradientEdge | None
    own: bool = True

    def among_tokens(self, rows: int) -> Attention:
        """Return the same with weights (N, heads, T, T) of N = ``rows`` pictures.

        Raises:
            ModelOutputError: it is not among all tokens of a picture; the message says what it is.
        """
        weights = self.weights
        if weights.ndim == 3 and len(weights) % rows == 0:
            weights = weights.view(rows, -1, *weights.shape[1:])
        if len(weights) != rows or weights.ndim != 4:
            raise ModelOutputError("Its attention is within windows or groups, not among all tokens of a picture.")
        if not self.own or weights.shape[2] != weights.shape[3]:
            raise ModelOutputError(
                "A part of its attention is not of the tokens to themselves: there are pooled ones, further ones, or "
                "queries of their own."
            )
        return replace(self, weights=weights)


class AttentionRecorder(TorchFunctionMode):
    """While active in a thread, keeps the weights of all attention, which is else fused away.

    That is PyTorch's multi-head and scaled dot-product attention, by name or as an operator of an exported program, and
    softmaxes over the last axis of (N, heads, T, S). The numbers are those of the network, to rounding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Attention] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func``, and look on if it is attention."""
        del types
        given = kwargs or {}
        if func is functional.multi_head_attention_forward:
            return self._attend(*args, **given)
        if func in _SCALED:
            return self._attend_scaled(*args, **given)
        output = func(*args, **given)
        if func in _SOFTMAXES and _is_over_tokens(output, *args[1:2], **given):
            self.calls.append(Attention(output, _edge_of(output)))
        return output

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
        self.calls.append(Attention(weights, _softmax_of(weights), own=query is key and key is value))
        if not need_weights:
            return mixed, None
        return mixed, weights.mean(-3) if average_attn_weights else weights

    def _attend_scaled(self, *args: Any, **kwargs: Any) -> Tensor:
        mixed, weights = attend_in_full(*args, **kwargs)
        self.calls.append(Attention(weights, _edge_of(weights)))
        return mixed


_ATEN = torch.ops.aten
_SCALED: set[Any] = {functional.scaled_dot_product_attention, _ATEN.scaled_dot_product_attention.default}
_SOFTMAXES: set[Any] = {
    functional.softmax,
    torch.softmax,
    Tensor.softmax,
    _ATEN.softmax.int,
    _ATEN._softmax.default,
    _ATEN._safe_softmax.default,
}


def _is_over_tokens(output: Tensor, dim: int | None = None, **_: Any) -> bool:
    """Whether a softmax looks like attention: over the last axis of (N, heads, T, S), or of (N·heads, T, T)."""
    if output.ndim not in {3, 4} or dim not in {-1, output.ndim - 1}:
        return False
    tokens, others = output.shape[-2:]
    return others > 1 and (output.ndim == 4 or tokens == others)


def _edge_of(weights: Tensor) -> GradientEdge | None:
    return get_gradient_edge(weights) if weights.requires_grad else None


def _softmax_of(weights: Tensor) -> GradientEdge | None:
    """The place in the graph that ``weights``, which the module returns, are a view of: nothing depends on the view."""
    if weights.grad_fn is None:
        return None
    softmax, output = weights.grad_fn.next_functions[0]
    return None if softmax is None else GradientEdge(softmax, output)


class BlockFinder:
    """Finds the blocks that attention stands in: of every call, the outermost module that holds no other.

    Its two methods are told of all modules while one picture goes through a network under an ``AttentionRecorder``.
    """

    def __init__(self, recorder: AttentionRecorder) -> None:
        self._recorder = recorder
        self._begun: list[int] = []
        self._times: dict[str, int] = {}
        self._found: dict[int, tuple[LayerCall, tuple[int, ...]]] = {}

    def enter(self) -> None:
        """Take note that a module is called."""
        self._begun.append(len(self._recorder.calls))

    def leave(self, name: str, output: object) -> None:
        """Take note of what a module gives out."""
        begun, times = self._begun.pop(), self._times.get(name, 0)
        self._times[name] = times + 1
        if len(self._recorder.calls) == begun + 1:
            self._found[begun] = LayerCall(name, times), tuple(output.shape) if isinstance(output, Tensor) else ()

    def blocks(self) -> tuple[LayerCall, ...]:
        """Return the blocks in order, one for every call; nothing where attention stands in no module that has others.

        Raises:
            ModelOutputError: there is no attention, or it is not that of blocks among all tokens of a picture.
        """
        if not self._recorder.calls:
            raise ModelOutputError("It needs a transformer: no attention among tokens is seen in this network.")
        sizes = {call.among_tokens(1).weights.shape[2] for call in self._recorder.calls}
        if len(sizes) > 1:
            raise ModelOutputError("The number of tokens changes from block to block.")
        (tokens,) = sizes
        found = [self._found.get(index, (LayerCall(""), ())) for index in range(len(self._recorder.calls))]
        shapes = {shape for _, shape in found}
        if shapes <= {tuple(call.weights.shape) for call in self._recorder.calls}:
            return ()  # a graph of operators, whose modules are no blocks
        first = found[0][1]
        if len(shapes) > 1 or len(first) != 3 or tuple(sorted(first[:2])) != (1, tokens):
            raise ModelOutputError("The blocks around its attention do not give out a row for each of their tokens.")
        return tuple(replace(call, batch_axis=0 if first[0] == 1 else 1) for call, _ in found)
