"""Derivatives of a network: asking for them, why there are none, and what makes second ones possible."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from service.errors import MethodNotApplicable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch.autograd.graph import GradientEdge

__all__ = ["TwiceDifferentiable", "attend_in_full", "cause_of", "differentiate", "differentiate_before"]

_IN_PLACE = (
    "the model changes in place what the backward pass needs, as x += y or an activation with inplace=True does; make "
    "a new tensor, x = x + y"
)
_NO_DERIVATIVE = "an operation of the model has no derivative in PyTorch"

# A part of what PyTorch's error says → what it means, and the way out.
_CAUSES = {
    "use_reentrant=True": "the model uses torch.utils.checkpoint with use_reentrant=True; say use_reentrant=False, or "
    "leave checkpoints out in eval mode",
    "torch.utils.checkpoint": "the layer lies inside a torch.utils.checkpoint, which runs it once more in the backward "
    "pass; leave checkpoints out in eval mode",
    "BackwardHookFunction": "a module with a backward hook is followed by an operation in place; take the hook off",
    "modified by an inplace operation": _IN_PLACE,
    "is being modified inplace": _IN_PLACE,
    "implement either the backward": "a torch.autograd.Function of the model has no backward(); write one",
    "derivative for": _NO_DERIVATIVE,
    "not differentiable": _NO_DERIVATIVE,
    "nference tensor": "a part of the model runs under torch.inference_mode(); take that out of forward()",
    "does not require grad": "the model cuts its logits from the graph, as torch.no_grad() and .detach() do; take that "
    "out of forward()",
}


def cause_of(error: BaseException | None) -> str | None:
    """Say in words why autograd raised ``error``; None where it is nothing that the network's code is to blame for."""
    text = str(error)
    for mark, cause in _CAUSES.items():
        if mark in text:
            operation = next((word.strip("'\"`.,") for word in text.split() if "aten::" in word), None)
            return f"{cause} ({operation})" if operation else cause
    return None


def differentiate(
    logits: Tensor,
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    logit_weights: Tensor,
    *,
    create_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """Differentiate the weighted sum of ``logits``; their graph stays for more.

    Args:
        logits: (N, classes).
        inputs: with respect to what.
        logit_weights: (N, classes), on any device and in any dtype.
        create_graph: whether the derivatives will be differentiated themselves.

    Returns:
        One derivative each; None where the logits do not depend on it.

    Raises:
        MethodNotApplicable: the network cannot be differentiated here; the message carries the cause.
    """
    with _put_in_words():
        # Weights given as grad_outputs would have their shapes compared by torch's symbolic algebra, whose import is a
        # second of a worker's start. This derivative is the same to the bit.
        with torch.inference_mode(mode=False), torch.enable_grad():
            weighted = (logits * logit_weights.to(logits).clone()).sum()
        return torch.autograd.grad(weighted, inputs, retain_graph=True, create_graph=create_graph, allow_unused=True)


def differentiate_before(edge: GradientEdge, known: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Do the rest of ``differentiate`` where the derivative is ``known`` at an edge of the graph.

    Raises:
        MethodNotApplicable: as there.
    """
    with _put_in_words():
        # What autograd.grad calls once shapes were compared; see differentiate.
        return _engine_run_backward(
            (edge,), (known,), True, False, tuple(inputs), allow_unreachable=True, accumulate_grad=False
        )


@contextmanager
def _put_in_words() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise MethodNotApplicable(f"No gradient can be computed here: {cause}.") from error


class TwiceDifferentiable(TorchFunctionMode):
    """While active in a thread, what PyTorch cannot differentiate twice is computed step by step.

    That is fused attention, whoever calls it, and the hard sigmoid. The numbers are those of the network, to rounding.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run ``func`` or its substitute."""
        del types
        return _SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))


def _attend(*args: Any, need_weights: bool = True, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """``multi_head_attention_forward``: it is not fused where it must return its weights."""
    mixed, weights = functional.multi_head_attention_forward(*args, **kwargs | {"need_weights": True})
    return mixed, weights if need_weights else None


def attend_in_full(  # noqa: PLR0913  # PyTorch's own signature
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """``scaled_dot_product_attention``, with its weights: PyTorch's own implementation that is not fused."""
    mixed, weights = torch.ops.aten._scaled_dot_product_attention_math(  # it has no public name
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return mixed, weights


def _attend_scaled(*args: Any, **kwargs: Any) -> Tensor:
    return attend_in_full(*args, **kwargs)[0]


def _hard_sigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    value = functional.relu6(x + 3) / 6
    return x.copy_(value) if inplace else value


_SUBSTITUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.multi_head_attention_forward: _attend,
    functional.scaled_dot_product_attention: _attend_scaled,
    functional.hardsigmoid: _hard_sigmoid,
}
