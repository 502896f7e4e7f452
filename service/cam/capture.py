"""Run a model once and keep what the target layers gave out, with a graph that starts at those layers.

The forward hook replaces a target layer's output by a detached leaf, so autograd records only what comes after the
first target layer: nothing is back-propagated below it, no parameter gets a ``.grad``, and the cost of a map grows with
the tail of the network, not with the network (Selvaraju et al., https://arxiv.org/abs/1610.02391, ask for no more).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from service.cam.layers import LayerCall
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Capture", "capture", "check_logits", "gradients"]


@dataclass(frozen=True)
class Capture:
    """What one forward pass left: ``logits`` (N, classes) and one activation tensor per layer, batch first."""

    logits: Tensor
    activations: dict[LayerCall, Tensor]


class _Cut:
    """Forward hook of one module: makes the wanted calls' outputs the places where gradients are read."""

    def __init__(self, name: str, wanted: set[int], into: dict[LayerCall, Tensor], *, differentiate: bool) -> None:
        self.name, self.wanted, self.into, self.calls = name, wanted, into, 0
        self.differentiate = differentiate

    def __call__(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor | None:
        call, self.calls = self.calls, self.calls + 1
        if call not in self.wanted:
            return None
        # A layer behind another target layer is already in the graph and must stay in it.
        kept = output if output.requires_grad else output.detach().requires_grad_(self.differentiate)
        self.into[LayerCall(self.name, call)] = kept
        # The network goes on with a copy: an in-place ReLU or += behind the layer must not change what was kept.
        return kept.clone()


def capture(model: nn.Module, inputs: Tensor, layers: Sequence[LayerCall], *, differentiate: bool = True) -> Capture:
    """Run ``model`` on ``inputs`` and capture ``layers``.

    The parameters must be frozen and the model in eval mode; neither is changed. Hooks are gone when this returns or
    raises.

    Args:
        model: maps ``inputs`` to logits of shape (N, classes).
        inputs: a batch, (N, 3, H, W).
        layers: which outputs to capture; all must be single tensors that the forward pass produces.
        differentiate: whether gradients will be asked for; without, nothing is recorded.

    Returns:
        The capture; ``logits`` depend on ``activations`` through a graph that begins at the first of them.

    Raises:
        ModelOutputError: the model did not return an (N, classes) tensor, or a layer was never called.
    """
    activations: dict[LayerCall, Tensor] = {}
    wanted: dict[str, set[int]] = {}
    for layer in layers:
        wanted.setdefault(layer.module, set()).add(layer.call)
    with ExitStack() as hooks, torch.inference_mode(mode=False), torch.enable_grad():
        for name, calls in wanted.items():
            handle = model.get_submodule(name).register_forward_hook(
                _Cut(name, calls, activations, differentiate=differentiate)
            )
            hooks.callback(handle.remove)
        logits = model(inputs)
    for layer in layers:
        if layer not in activations:
            raise ModelOutputError(f"The forward pass did not reach call {layer.call} of layer {layer.module!r}.")
    return Capture(check_logits(logits, len(inputs)), activations)


def check_logits(output: object, n: int) -> Tensor:
    """Return the model's ``output`` if it is a tensor of logits (n, classes).

    Raises:
        ModelOutputError: it is anything else; the message says what.
    """
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != n:
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelOutputError(f"The model must return logits of shape (batch, classes); it returned {found}.")
    return output


def gradients(captured: Capture, logit_weights: Tensor) -> dict[LayerCall, Tensor]:
    """Differentiate one score per row with respect to every captured activation.

    Call it once per target: the forward pass is shared, and in eval mode rows do not influence one another, so the
    sum over the rows' scores differentiates to every row's own gradient. (One call per target costs the same as
    vectorised gradients or, for deep tails on a CPU, half: see docs/decisions/0003.)

    Args:
        captured: from :func:`capture`.
        logit_weights: (N, classes), the weights of row n's logits in its score: one-hot for "this class", one-hot minus
            one-hot for "this class rather than that", zero for "no target".

    Returns:
        Per layer a tensor of the activation's shape, zero where a score does not depend on the layer.
    """
    activations = list(captured.activations.values())
    if not captured.logits.requires_grad:
        return {layer: torch.zeros_like(kept) for layer, kept in captured.activations.items()}
    found = torch.autograd.grad(
        captured.logits,
        activations,
        grad_outputs=logit_weights.to(captured.logits),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return dict(zip(captured.activations, found, strict=True))
