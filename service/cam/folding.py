"""A network whose batch normalisations are part of the convolutions before them: the same function, computed sooner.

In eval mode a batch normalisation multiplies and adds constants per channel, so a convolution can have them in its
weights (Jacob et al., https://arxiv.org/abs/1712.05877, section 3.2). That saves a pass through memory for each.

It is done while a pass runs, in the network's own modules: the convolution gives out something that its normalisation
alone can open. Whatever else the network's code does with it, for whatever picture, raises, and the pass is made again
with the modules as they are.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from service.cam.capture import logits_apart
from service.cam.eager import EagerNetwork
from service.cam.graph import Graph
from service.cam.layers import LayerCall
from service.errors import first_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from torch.autograd.graph import Node

    from service.cam.capture import Capture
    from service.cam.layers import Layer
    from service.cam.modules import ModuleDescription
    from service.cam.network import AttentionCapture, Network, Observer

__all__ = ["FoldedNetwork", "folded"]

log = logging.getLogger("camserve.models")

_Result = TypeVar("_Result")

# How far what the two compute may lie apart, relative to the largest value. Of 16 bits each operation rounds.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_SAMPLED = 4096  # values of an output that are compared, about
_LOGITS = LayerCall("")  # the network itself


class FoldedNetwork:
    """A ``Network`` that computes with folded convolutions wherever that gives the same.

    The output of a convolution that has its normalisation in it is not what it is in the network itself. Such layers,
    and whatever looks at the whole network, are computed by the modules as they are; so is everything, from the first
    picture on for which the network's code does something else with such an output than at load.
    """

    def __init__(self, own: EagerNetwork, folds: Mapping[str, _Fold]) -> None:
        """Fold, while ``own`` is computed, those convolutions that ``folds`` has by name."""
        self._own, self._folds = own, folds

    @property
    def own_module(self) -> nn.Module:
        """The modules as they are."""
        return self._own._module

    @property
    def own(self) -> EagerNetwork:
        """The network that computes with the modules as they are."""
        return self._own

    @property
    def more_bytes(self) -> int:
        """Bytes of the weights that are kept beside the network's own."""
        return sum(fold.weight.nbytes + fold.bias.nbytes for fold in self._folds.values())

    def _computed(self, compute: Callable[[], _Result], layers: Sequence[LayerCall] = ()) -> _Result:
        """Compute with folded convolutions, unless one of ``layers`` is such."""
        if not self._folds or any(layer.module in self._folds for layer in layers):
            return compute()
        try:
            return _with_folds(self._folds, compute)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except Exception as error:  # noqa: BLE001  # whatever a network's code raises about what it cannot read
            raised = f"{type(error).__name__}: {first_line(error)}"  # itself, it would keep activations alive
        result = compute()  # which raises where the network does so by itself
        log.info("a network is computed without folding from now on, where it raised %s", raised)
        self._folds = {}
        return result

    def predict(self, inputs: Tensor) -> Tensor:
        """See ``Network``."""
        return self._computed(lambda: self._own.predict(inputs))

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        """See ``Network``."""
        return self._computed(lambda: self._own.capture(inputs, layers, derivatives), layers)

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        """See ``Network``."""
        return self._computed(lambda: self._own.resume(inputs, layer, activations), [layer.call])

    def with_random_head(self, layers: Sequence[Layer], classes: int, seed: int) -> Network | None:
        """See ``Network``."""
        return self._own.with_random_head(layers, classes, seed)

    def beside_random_head(
        self, layers: Sequence[Layer], asked: Sequence[Layer], classes: int, seed: int
    ) -> Network | None:
        """See ``Network``."""
        other = self._own.beside_random_head(layers, asked, classes, seed)
        return None if other is None else FoldedNetwork(other, self._folds)

    def modules(self) -> Mapping[str, ModuleDescription]:
        """See ``Network``."""
        return self._own.modules()

    def observe(self, inputs: Tensor, modules: Collection[str], see: Observer, across_cuts: bool = False) -> Tensor:
        """See ``Network``."""
        return self._own.observe(inputs, modules, see, across_cuts)

    def watch(self, inputs: Tensor, layers: Collection[LayerCall], see: Callable[[LayerCall, Tensor], None]) -> None:
        """See ``Network``."""
        self._own.watch(inputs, layers, see)

    def altered(self, inputs: Tensor) -> Collection[tuple[str, int]]:
        """See ``Network``."""
        return self._own.altered(inputs)

    def biases(self) -> Mapping[str, Tensor]:
        """See ``Network``."""
        return self._own.biases()

    def capture_attention(self, inputs: Tensor, derivatives: int = 1) -> AttentionCapture:
        """See ``Network``."""
        return self._own.capture_attention(inputs, derivatives)


class _Strayed(Exception):
    """A network's code uses a folded convolution in another way than at load."""


class _Withheld:
    """What a folded convolution gives out: its normalisation can open it, and all else raises, as it is no tensor."""

    __slots__ = ("_by", "_normalised")

    def __init__(self, by: _Fold, normalised: Tensor) -> None:
        self._by, self._normalised = by, [normalised]

    def opened(self, by: _Fold) -> Tensor:
        """Give the normalised output away, once, to whom it is meant for."""
        if by is not self._by or not self._normalised:
            raise _Strayed
        return self._normalised.pop()


@dataclass(frozen=True, eq=False)
class _Fold:
    """A convolution and the normalisation behind it, with the weights and bias that do both."""

    convolution: nn.Conv2d
    normalisation: nn.BatchNorm2d
    weight: Tensor
    bias: Tensor

    def convolve(self, input: Tensor) -> _Withheld:  # named as PyTorch does
        """Compute what the normalisation will give out, in place of ``convolution.forward``."""
        checkpoint: object = torch._C._autograd._top_saved_tensors_default_hooks(True)
        if checkpoint is not None:
            raise _Strayed  # it calls the modules once more when the pass is over
        return _Withheld(self, self.convolution._conv_forward(input, self.weight, self.bias))

    def normalise(self, input: object) -> Tensor:  # likewise
        """Give it out, in place of ``normalisation.forward``."""
        if not isinstance(input, _Withheld):
            raise _Strayed
        return input.opened(self)


def _with_folds(folds: Mapping[str, _Fold], compute: Callable[[], _Result]) -> _Result:
    """Compute while the modules are folded; they are as before when that returns or raises."""
    with _in_place(folds):
        return compute()


@contextmanager
def _in_place(folds: Mapping[str, _Fold]) -> Iterator[None]:
    try:
        for fold in folds.values():
            vars(fold.convolution)["forward"] = fold.convolve
            vars(fold.normalisation)["forward"] = fold.normalise
        yield
    finally:
        for fold in folds.values():
            vars(fold.convolution).pop("forward", None)
            vars(fold.normalisation).pop("forward", None)


def folded(module: nn.Module, images: Tensor, hidden: Collection[str] = ()) -> FoldedNetwork | None:
    """Fold a network of one output; None where there is nothing to fold, or it does not compute the same.

    Args:
        module: frozen and in eval mode; it is changed while a pass runs, and only then.
        images: one or more, (N, C, H, W); the first is what is tried.
        hidden: names of submodules that are no layers.
    """
    own = EagerNetwork(module, None, hidden)
    try:
        pairs = _pairs(module, own, images[:1])
        if not pairs.normalised:
            return None
        folds = {
            convolution: _fold(module.get_submodule(convolution), module.get_submodule(normalisation))
            for convolution, normalisation in pairs.normalised.items()
        }
        alike = _computes_the_same(own, folds, images[:1], pairs)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception:  # noqa: BLE001  # a network's own code may raise anything, and it is served without this
        return None
    return FoldedNetwork(own, folds) if alike else None


@dataclass(frozen=True)
class _Pairs:
    """Which convolutions are followed by a normalisation and nothing else.

    Attributes:
        normalised: the normalisation's name by the convolution's.
        values: some values that each call of a module gave out, and the network itself.
    """

    normalised: dict[str, str]
    values: dict[LayerCall, Tensor]


def _pairs(module: nn.Module, network: EagerNetwork, image: Tensor) -> _Pairs:
    """Find them in the graph of one pass."""
    parts = dict(module.named_modules())
    given: dict[LayerCall, Node | None] = {}  # the node of a copy of each output, which only what comes next can use
    made: dict[LayerCall, Any] = {}  # the output's own node
    values: dict[LayerCall, Tensor] = {}

    def see(call: LayerCall, output: object, node: Node | None) -> None:
        given[call], made[call] = node, getattr(output, "grad_fn", None)
        values.update(_some_of(call, output))

    inputs = image.clone().requires_grad_()
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
    return _Pairs(found, values | _some_of(_LOGITS, logits))


_LISTENERS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _can_be_folded(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is exactly of this kind, which tells what it computes, and nobody listens to it."""
    listened = any(getattr(part, hooks) for hooks in _LISTENERS)
    return type(part) is kind and not part.training and not listened and "forward" not in vars(part)


def _fold(convolution: nn.Module, normalisation: nn.Module) -> _Fold:
    """Make weights that convolve and normalise; in float64 until they are rounded."""
    assert isinstance(convolution, nn.Conv2d), "see _Pairs"
    assert isinstance(normalisation, nn.BatchNorm2d), "see _Pairs"
    like = convolution.weight
    named = (like, convolution.bias, normalisation.running_mean, normalisation.running_var)
    weight, bias, mean, variance = (_in_float64(each) for each in named)
    assert weight is not None and mean is not None and variance is not None, "see _Pairs"  # noqa: PT018
    scale, shift = _in_float64(normalisation.weight), _in_float64(normalisation.bias)
    made = fuse_conv_bn_weights(weight, bias, mean, variance, normalisation.eps, scale, shift)
    layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    both = (
        each.detach().to(like.dtype, memory_format=form)
        for each, form in zip(made, (layout, torch.preserve_format), strict=True)
    )
    return _Fold(convolution, normalisation, *both)


def _in_float64(tensor: Any) -> Tensor | None:
    return tensor.double() if isinstance(tensor, Tensor) else None


def _computes_the_same(own: EagerNetwork, folds: Mapping[str, _Fold], image: Tensor, pairs: _Pairs) -> bool:
    """Whether a network has the same logits when it is folded, and the same outputs of all layers that are not."""
    tolerance = _TOLERANCE[image.dtype]
    wanted = {call: values for call, values in pairs.values.items() if call.module not in folds}
    found: dict[LayerCall, Tensor] = {}

    def see(call: LayerCall, output: Tensor) -> None:
        found.update(_some_of(call, output))

    _with_folds(folds, lambda: own.watch(image, wanted, see))
    same_layers = found.keys() == wanted.keys()
    return same_layers and all(logits_apart(found[call], wanted[call]) <= tolerance for call in found)


def _some_of(call: LayerCall, output: object) -> dict[LayerCall, Tensor]:
    """Return some values of what a call gives out, copied before the network writes into it; of numbers nothing."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return {}
    step = max(1, math.isqrt(output.numel() // _SAMPLED))
    some = output.detach()[..., ::step]
    some = some[..., ::step, :] if some.ndim > 1 else some
    return {call: some.to(torch.float32, copy=True)}
