"""What a method gets to see: one layer of one forward pass, one score per row, and ways to ask the network for more."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.cam.capture import Capture, gradients
from service.cam.pace import Pace
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
    """One forward pass over a batch, and one score per row: its logits weighted by ``logit_weights`` (N, classes).

    It is that of one target of several, ``all_weights`` (K, N, classes) are those of all; see ``for_all_targets``.
    """

    network: Network
    inputs: Tensor
    captured: Capture
    logit_weights: Tensor
    target: int
    all_weights: Callable[[], Tensor]
    _gradients: dict[LayerCall, Tensor] | None = field(default=None, init=False)

    @property
    def gradients(self) -> dict[LayerCall, Tensor]:
        """Gradients of the scores with respect to every captured activation, from one backward pass."""
        # Not cached_property: in Python 3.11 it holds a lock that all passes share, those of other models included.
        if self._gradients is None:
            self._gradients = gradients(self.captured, self.logit_weights)
        return self._gradients


@dataclass
class LayerContext:
    """One layer of a pass. Tensors are float32 and channels-first, whatever the network's dtype and layout.

    ``checkpoint`` is called with (done, total) between the steps of a map, with no hook in place: others may compute.
    ``shared`` is what one view's contexts have in common, ``heads`` how many have logits: see ``explain``.
    """

    forward_pass: ForwardPass
    layer: Layer
    checkpoint: Callable[[int, int], None] = field(default=_go_on)
    pace: Pace = field(default_factory=Pace)
    shared: dict[object, Tensor] = field(default_factory=dict)
    heads: int = 1
    _activations: Tensor | None = field(default=None, init=False)
    _gradients: Tensor | None = field(default=None, init=False)

    @property
    def raw_activations(self) -> Tensor:
        """The layer's output as the network made it, with its graph."""
        return self.forward_pass.captured.activations[self.layer.call]

    @property
    def activations(self) -> Tensor:
        """The layer's output, (N, C, h, w)."""
        if self._activations is None:
            self._activations = self.layer.to_nchw(self.raw_activations.detach()).float()
        return self._activations

    @property
    def gradients(self) -> Tensor:
        """Gradient of each row's score with respect to its activations, (N, C, h, w); finding it is a step."""
        if self._gradients is None:
            self._gradients = self.layer.to_nchw(self.forward_pass.gradients[self.layer.call]).float()
            self.checkpoint(0, 1)
        return self._gradients

    def for_all_targets(self, what: str, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return this target's part of what ``compute`` makes of all targets, by the weights (K, N, classes) of logits.

        It is computed once, for the first of them, under the name ``what`` and the layer's.
        """
        key = what, self.layer.name
        if key not in self.shared:
            self.shared[key] = compute(self.forward_pass.all_weights())
        return self.shared[key][self.forward_pass.target]

    def chunks(self, total: int, elements: int, done: int = 0, overall: int | None = None) -> Iterator[slice]:
        """Cut ``total`` perturbed rows into chunks of bounded memory and time; others may compute between them.

        Args:
            total: rows.
            elements: how many numbers one row takes in the largest tensor that is made of it.
            done: rows finished before these, for the report of progress.
            overall: rows in all; ``total`` if None.
        """
        most = rows_at_once(total, elements)
        kind = self.layer.name, elements
        begin = 0
        while begin < total:
            self.checkpoint(done + begin, overall or total)
            end = min(total, begin + min(most, self.pace.rows(kind)))
            began = time.perf_counter()
            yield slice(begin, end)
            self.pace.took(kind, end - begin, time.perf_counter() - began)
            begin = end

    def resume(self, row: int, activations: Tensor) -> Tensor:
        """Return logits (M, classes) if the layer gave out ``activations`` (M, C, h, w) for row ``row``."""
        forward_pass, layout = self.forward_pass, self.layer.layout
        assert layout is not None
        replacement = layout.from_nchw(activations, self.raw_activations[row : row + 1].detach())
        return forward_pass.network.resume(forward_pass.inputs[row : row + 1], self.layer, replacement)
