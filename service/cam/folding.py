"""A network whose batch normalisations are part of the convolutions before them: the same function, computed sooner.

In eval mode a batch normalisation multiplies and adds constants per channel, so a convolution can have them in its
weights (Jacob et al., https://arxiv.org/abs/1712.05877, section 3.2). That saves a pass through memory for each.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from service.cam.capture import logits_apart
from service.cam.eager import EagerNetwork
from service.cam.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from torch.autograd.graph import Node

    from service.cam.capture import Capture
    from service.cam.layers import Layer, LayerCall
    from service.cam.modules import ModuleDescription
    from service.cam.network import AttentionCapture, Network, Observer

__all__ = ["FoldedNetwork", "folded"]

# How far what the two compute may lie apart, relative to the largest value. Of 16 bits each operation rounds.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_SAMPLED = 4096  # values of an output that are compared


class FoldedNetwork:
    """A ``Network`` that computes by a folded copy of its modules wherever that gives the same.

    The output of a convolution that has its normalisation in it is not what it is in the network itself. Such layers,
    and whatever looks at the whole network, are computed by the modules as they are.
    """

    def __init__(self, own: EagerNetwork, quick: EagerNetwork, changed: frozenset[str]) -> None:
        """See ``own`` and its folded copy as one; in the copy the modules ``changed`` give out something else."""
        self._own, self._quick, self._changed = own, quick, changed

    @property
    def own_module(self) -> nn.Module:
        """The modules as they are."""
        return self._own._module

    @property
    def more_bytes(self) -> int:
        """Bytes of the weights that the copy has to itself."""
        own, quick = (set(each._module.parameters()) for each in (self._own, self._quick))
        return sum(weight.nbytes for weight in quick - own)

    def _that_has(self, layers: Sequence[LayerCall]) -> EagerNetwork:
        return self._own if any(layer.module in self._changed for layer in layers) else self._quick

    def predict(self, inputs: Tensor) -> Tensor:
        """See ``Network``."""
        return self._quick.predict(inputs)

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """See ``Network``."""
        return self._that_has(layers).capture(inputs, layers, derivatives)

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        """See ``Network``."""
        return self._that_has([layer.call]).resume(inputs, layer, activations)

    def with_random_head(self, layers: Sequence[Layer], classes: int, seed: int) -> Network | None:
        """See ``Network``."""
        return self._own.with_random_head(layers, classes, seed)

    def modules(self) -> Mapping[str, ModuleDescription]:
        """See ``Network``."""
        return self._own.modules()

    def observe(self, inputs: Tensor, modules: Collection[str], see: Observer, across_cuts: bool = False) -> Tensor:
        """See ``Network``."""
        return self._own.observe(inputs, modules, see, across_cuts)

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """See ``Network``."""
        self._own.watch(inputs, layers, see)

    def biases(self) -> Mapping[str, Tensor]:
        """See ``Network``."""
        return self._own.biases()

    def capture_attention(self, inputs: Tensor) -> AttentionCapture:
        """See ``Network``."""
        return self._own.capture_attention(inputs)


def folded(module: nn.Module, images: Tensor, hidden: Collection[str] = ()) -> FoldedNetwork | None:
    """Fold a network of one output; None where there is nothing to fold, or the copy does not compute the same.

    Args:
        module: frozen and in eval mode; it is not changed. The copy shares all weights but those of folded layers.
        images: two or more to compare with, (N, C, H, W).
        hidden: names of submodules that are no layers.
    """
    own = EagerNetwork(module, None, hidden)
    try:
        pairs = _pairs(module, own, images)
        if not pairs.normalised:
            return None
        quick = EagerNetwork(_copy(module, pairs.normalised), None, hidden)
        alike = _compute_the_same(own, quick, images, pairs)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception:  # noqa: BLE001  # a network's own code may raise anything, and it is served without this
        return None
    return FoldedNetwork(own, quick, frozenset(pairs.normalised)) if alike else None


@dataclass(frozen=True)
class _Pairs:
    """Which convolutions are followed by a normalisation and nothing else.

    Attributes:
        normalised: the normalisation's name by the convolution's.
        calls: all calls of modules that there were.
    """

    normalised: dict[str, str]
    calls: list[LayerCall]


def _pairs(module: nn.Module, network: EagerNetwork, images: Tensor) -> _Pairs:
    """Find them in the graph of one pass."""
    parts = dict(module.named_modules())
    given: dict[LayerCall, Node | None] = {}  # the node of a copy of each output, which only what comes next can use
    made: dict[LayerCall, Any] = {}  # the output's own node

    def see(call: LayerCall, output: object, node: Node | None) -> None:
        given[call], made[call] = node, getattr(output, "grad_fn", None)

    inputs = images.clone().requires_grad_()
    logits = network.observe(inputs, [name for name in parts if name], see)
    graph, calls = Graph.of(logits, inputs, ()).nodes, Counter(call.module for call in given)
    once = [call for call in given if calls[call.module] == 1 and given[call] in graph]
    convolutions = {given[call]: call.module for call in once if _can_be_folded(parts[call.module], nn.Conv2d)}
    found = {}
    for call in once:
        part, before = parts[call.module], made[call].next_functions[0][0]
        alone = before in convolutions and graph.in_degree(before) == 1
        if alone and _can_be_folded(part, nn.BatchNorm2d) and part.running_mean is not None:
            found[convolutions[before]] = call.module
    return _Pairs(found, list(given))


def _can_be_folded(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly of this kind, which tells what it computes, and nobody listens to it."""
    return type(part) is kind and not part.training and not part._forward_hooks and not part._forward_pre_hooks


def _copy(module: nn.Module, normalised: Mapping[str, str]) -> nn.Module:
    """Copy a module without its weights, and put these normalisations into these convolutions."""
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    other = copy.deepcopy(module, shared)
    for convolution, normalisation in normalised.items():
        _fold(other.get_submodule(convolution), other.get_submodule(normalisation))
        other.set_submodule(normalisation, nn.Identity().eval())
    return other


def _fold(convolution: nn.Module, normalisation: nn.Module) -> None:
    """Give a convolution weights of its own that have a normalisation in them; in float64 until they are rounded."""
    like, eps = cast("Tensor", convolution.weight), cast("float", normalisation.eps)
    named = (like, convolution.bias, normalisation.running_mean, normalisation.running_var)
    weight, bias, mean, variance = (_in_float64(each) for each in named)
    assert weight is not None and mean is not None and variance is not None, "see _Pairs"  # noqa: PT018
    scale, shift = _in_float64(normalisation.weight), _in_float64(normalisation.bias)
    made = fuse_conv_bn_weights(weight, bias, mean, variance, eps, scale, shift)
    layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    convolution.weight, convolution.bias = (
        nn.Parameter(each.detach().to(like.dtype, memory_format=form), requires_grad=False)
        for each, form in zip(made, (layout, torch.preserve_format), strict=True)
    )


def _in_float64(tensor: Any) -> Tensor | None:
    return tensor.double() if isinstance(tensor, Tensor) else None


def _compute_the_same(own: EagerNetwork, quick: EagerNetwork, images: Tensor, pairs: _Pairs) -> bool:
    """Whether two networks have the same logits, and the same outputs of all layers but folded convolutions."""
    tolerance, calls = _TOLERANCE[images.dtype], [each for each in pairs.calls if each.module not in pairs.normalised]
    if logits_apart(quick.predict(images), own.predict(images)) > tolerance:
        return False
    one, other = (_sampled(network, images, calls) for network in (own, quick))
    return one.keys() == other.keys() and all(logits_apart(other[call], one[call]) <= tolerance for call in one)


def _sampled(network: EagerNetwork, images: Tensor, calls: Sequence[LayerCall]) -> dict[LayerCall, Tensor]:
    """Return some values of what every call gives out."""
    found = {}

    def see(call: LayerCall, output: Tensor) -> None:
        if output.is_floating_point():
            found[call] = output.flatten()[:: max(1, output.numel() // _SAMPLED)].float()[None]

    network.watch(images, calls, see)
    return found
