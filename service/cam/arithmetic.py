"""How much arithmetic a network does, and how much of it is left after each layer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.cam.flops import counting_flops

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from service.cam.layers import Layer, LayerCall
    from service.cam.network import Network

__all__ = ["Arithmetic", "arithmetic_of"]


@dataclass(frozen=True)
class Arithmetic:
    """What one image costs.

    Attributes:
        flops: floating-point operations of a forward pass, in matrix products, convolutions and attention.
        seconds: how long a forward pass takes.
        tails: share of them that comes after a layer, 0 to 1, by the layer's name.
    """

    flops: int
    seconds: float
    tails: Mapping[str, float]


def arithmetic_of(network: Network, image: Tensor, layers: Sequence[Layer]) -> Arithmetic:
    """Count, in one forward pass over ``image`` (1, channels, H, W), what comes before each layer's output.

    Branches count as they are computed, one after the other. A network without any such operation counts by its layers.
    """
    before: dict[tuple[str, int], int] = {}
    with counting_flops() as counter:

        def note(call: LayerCall, _output: object, _node: object) -> None:
            before[call.module, call.call] = counter.get_total_flops()

        network.observe(image, {layer.call.module for layer in layers}, note)
        flops = counter.get_total_flops()
    return Arithmetic(
        flops, _seconds(network, image), {layer.name: _tail(layer, len(layers), before, flops) for layer in layers}
    )


def _seconds(network: Network, image: Tensor) -> float:
    began = time.perf_counter()
    network.predict(image).cpu()  # which waits for the device
    return time.perf_counter() - began


def _tail(layer: Layer, layers: int, before: Mapping[tuple[str, int], int], flops: int) -> float:
    if not flops:
        return 1 - layer.order / layers
    return 1 - before.get((layer.call.module, layer.call.call), 0) / flops
