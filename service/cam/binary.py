"""A network that has one output, as one of two classes: what the output speaks for, and the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch import Tensor

    from service.cam.capture import Capture
    from service.cam.layers import Layer, LayerCall
    from service.cam.modules import ModuleDescription
    from service.cam.network import AttentionCapture, Network, Observer

__all__ = ["BinaryNetwork"]


class BinaryNetwork:
    """A ``Network`` whose logits are (N, 2) = (-z, z), for one whose only logit is z.

    The sigmoids of -z and z sum to 1, so each class is explained by what raises its own probability. Where the output
    is a probability p already, the scores are (1 - p, p).
    """

    def __init__(self, network: Network, *, of_probability: bool = False) -> None:
        self.network = network
        self._of_probability = of_probability

    def like(self, network: Network) -> BinaryNetwork:
        """Return the same of another network that has one output."""
        return BinaryNetwork(network, of_probability=self._of_probability)

    def _both(self, output: Tensor) -> Tensor:
        """Make the scores of two classes (M, 2) of one output (M, 1); of two heads (M, 2), head by head (M, 4)."""
        return torch.stack([1 - output if self._of_probability else -output, output], dim=2).flatten(1)

    def predict(self, inputs: Tensor) -> Tensor:
        """See ``Network``."""
        with torch.no_grad():
            return self._both(self.network.predict(inputs))

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """See ``Network``."""
        captured = self.network.capture(inputs, layers, derivatives)
        with torch.inference_mode(mode=False), torch.enable_grad():
            return replace(captured, logits=self._both(captured.logits))

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        """See ``Network``."""
        with torch.no_grad():
            return self._both(self.network.resume(inputs, layer, activations))

    def with_random_head(self, layers: Sequence[Layer], classes: int, seed: int) -> Network | None:
        """See ``Network``."""
        other = self.network.with_random_head(layers, classes // 2, seed)
        return None if other is None else self.like(other)

    def beside_random_head(
        self, layers: Sequence[Layer], asked: Sequence[Layer], classes: int, seed: int
    ) -> Network | None:
        """See ``Network``."""
        other = self.network.beside_random_head(layers, asked, classes // 2, seed)
        return None if other is None else self.like(other)

    def modules(self) -> Mapping[str, ModuleDescription]:
        """See ``Network``."""
        return self.network.modules()

    def observe(self, inputs: Tensor, modules: Collection[str], see: Observer, across_cuts: bool = False) -> Tensor:
        """See ``Network``."""
        with torch.inference_mode(mode=False), torch.enable_grad():
            return self._both(self.network.observe(inputs, modules, see, across_cuts=across_cuts))

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """See ``Network``."""
        self.network.watch(inputs, layers, see)

    def altered(self, inputs: Tensor) -> Collection[tuple[str, int]]:
        """See ``Network``."""
        return self.network.altered(inputs)

    def biases(self) -> Mapping[str, Tensor]:
        """See ``Network``."""
        return self.network.biases()

    def capture_attention(self, inputs: Tensor, derivatives: int = 1) -> AttentionCapture:
        """See ``Network``."""
        captured = self.network.capture_attention(inputs, derivatives)
        with torch.inference_mode(mode=False), torch.enable_grad():
            return replace(captured, logits=self._both(captured.logits))
