"""What a forward pass left at the target layers, and gradients with respect to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.derivatives import differentiate
from service.cam.linear_head import LinearHead
from service.cam.separable_head import SeparableHead
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from service.cam.layers import LayerCall
    from service.cam.network import AttentionCapture

__all__ = ["TOLERANCE", "Capture", "check_logits", "gradients", "logits_apart", "same_logits"]

# How far the logits of two ways to compute one network may lie apart, relative to the largest: rounding.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8, torch.bfloat16: 5e-2, torch.float16: 1e-2}

# Logits below that are nothing but rounding.
_SMALLEST = 1e-6


@dataclass(frozen=True)
class Capture:
    """What one forward pass left.

    Attributes:
        logits: (N, classes).
        activations: per layer, batch first; the logits depend on them. None of a pass that records attention.
        attention: what that one left besides.
    """

    logits: Tensor
    activations: dict[LayerCall, Tensor]
    attention: AttentionCapture | None = None
    _head: list[SeparableHead | LinearHead | None] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def head(self) -> SeparableHead | LinearHead | None:
        """What comes last, where gradients of a few classes go through it sooner than those of all."""
        if not self._head:
            of = self.logits, self.activations.values()
            self._head.append(SeparableHead.of(*of) or LinearHead.of(*of))
        return self._head[0]


def check_logits(output: object, n: int) -> Tensor:
    """Return the model's ``output`` as a tensor of logits (n, classes).

    A model that squeezes its output loses an axis of one: (n,) is taken for (n, 1), and of one image (classes,) for
    (1, classes).

    Raises:
        ModelOutputError: it is anything else; the message says what.
    """
    if isinstance(output, Tensor) and output.ndim < 2 and n in {1, output.numel()}:
        output = output.reshape(n, -1)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelOutputError(f"The model must return logits of shape (batch, classes); it returned {found}.")
    if not output.shape[1]:
        raise ModelOutputError("The model returns logits of no class at all: it was built for 0 classes.")
    if not output.is_floating_point():
        raise ModelOutputError(
            f"The model returns numbers of type {output.dtype}, such as the number of the best class. Let it return "
            "the logits, one per class."
        )
    return output


def same_logits(logits: Tensor, others: Tensor, dtype: torch.dtype, smallest: float = _SMALLEST) -> bool:
    """Whether two results (N, classes) are those of one network, computed in two ways.

    Args:
        logits: one result, of any dtype.
        others: the other.
        dtype: what the network computes in, which says how far rounding may lead.
        smallest: no difference is judged against less.
    """
    return logits.shape == others.shape and logits_apart(logits, others, smallest) <= TOLERANCE[dtype]


def logits_apart(logits: Tensor, others: Tensor, smallest: float = _SMALLEST) -> float:
    """Return the largest difference between two results of one shape, as a share of the largest logit."""
    one, other = logits.detach().float(), others.detach().float()
    return float((one - other).abs().max() / other.abs().max().clamp(min=smallest))


def gradients(captured: Capture, logit_weights: Tensor) -> dict[LayerCall, Tensor]:
    """Differentiate one score per row with respect to every captured activation.

    Call it once per target: the forward pass is shared, and in eval mode rows do not influence one another, so the
    sum over the rows' scores differentiates to every row's own gradient. (One call per target costs the same as
    vectorised gradients or, for deep tails on a CPU, half: see docs/decisions/0003.)

    Args:
        captured: of a network that was asked for derivatives.
        logit_weights: (N, classes), the weights of row n's logits in its score: one-hot for "this class", one-hot minus
            one-hot for "this class rather than that", zero for "no target".

    Returns:
        Per layer a tensor of the activation's shape, zero where a score does not depend on the layer.

    Raises:
        MethodNotApplicable: the network cannot be differentiated here.
    """
    activations = list(captured.activations.values())
    if not captured.logits.requires_grad:
        return {layer: torch.zeros_like(kept) for layer, kept in captured.activations.items()}
    head = captured.head
    if head is None:
        found = differentiate(captured.logits, activations, logit_weights)
    else:
        found = head.differentiate(activations, logit_weights)
    return {
        layer: torch.zeros_like(kept) if gradient is None else gradient
        for (layer, kept), gradient in zip(captured.activations.items(), found, strict=True)
    }
