"""What a method gets to see: one layer of one forward pass, one score per row, and ways to ask the network for more."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from service.cam.capture import Capture, gradients
from service.cam.work import rows_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from service.cam.layers import Layer, LayerCall
    from service.cam.network import Network

__all__ = ["ForwardPass", "LayerContext"]


def _go_on(_done: int, _total: int) -> None:
    """Do nothing at a checkpoint."""


@dataclass
class ForwardPass:
    """One forward pass over a batch, and one score per row: its logits weighted by ``logit_weights`` (N, classes)."""

    network: Network
    inputs: Tensor
    captured: Capture
    logit_weights: Tensor
    checkpoint: Callable[[int, int], None] = field(default=_go_on)

    @cached_property
    def gradients(self) -> dict[LayerCall, Tensor]:
        """Gradients of the scores with respect to every captured activation, from one backward pass."""
        return gradients(self.captured, self.logit_weights)


@dataclass
class LayerContext:
    """One layer of a pass. Tensors are float32 and channels-first, whatever the network's dtype and layout."""

    forward_pass: ForwardPass
    layer: Layer

    @property
    def raw_activations(self) -> Tensor:
        """The layer's output as the network made it, with its graph."""
        return self.forward_pass.captured.activations[self.layer.call]

    @cached_property
    def activations(self) -> Tensor:
        """The layer's output, (N, C, h, w)."""
        return self.layer.to_nchw(self.raw_activations.detach()).float()

    @cached_property
    def gradients(self) -> Tensor:
        """Gradient of each row's score with respect to its activations, (N, C, h, w)."""
        return self.layer.to_nchw(self.forward_pass.gradients[self.layer.call]).float()

    def scores(self, logits: Tensor, row: int) -> Tensor:
        """Scores (M,) of row ``row``'s target for other logits (M, classes)."""
        return logits.detach().float() @ self.forward_pass.logit_weights[row].to(logits.device)

    def chunks(self, total: int, elements: int, done: int = 0, overall: int | None = None) -> Iterator[slice]:
        """Cut ``total`` perturbed rows into chunks of bounded memory; others may compute between them.

        Args:
            total: rows.
            elements: how many numbers one row takes in the largest tensor that is made of it.
            done: rows finished before these, for the report of progress.
            overall: rows in all; ``total`` if None.
        """
        step = rows_at_once(total, elements)
        for begin in range(0, total, step):
            self.forward_pass.checkpoint(done + begin, overall or total)
            yield slice(begin, min(begin + step, total))

    def resume(self, row: int, activations: Tensor) -> Tensor:
        """Return logits (M, classes) if the layer gave out ``activations`` (M, C, h, w) for row ``row``."""
        forward_pass, layout = self.forward_pass, self.layer.layout
        assert layout is not None
        replacement = layout.from_nchw(activations, self.raw_activations[row : row + 1].detach())
        return forward_pass.network.resume(forward_pass.inputs[row : row + 1], self.layer, replacement)
