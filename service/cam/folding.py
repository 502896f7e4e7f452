"""A network whose convolutions compute what comes next, too: the same function, computed sooner.

See :mod:`service.cam.folded_convolution`. It is done while a pass runs, in the network's own modules. What the
network's code does otherwise than at load, for whatever picture, raises, and the pass is made again with the modules as
they are.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, product
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from service.cam.capture import logits_apart
from service.cam.eager import EagerNetwork
from service.cam.folded_convolution import FoldedConvolution, Pending, Strayed, Withheld
from service.cam.graph import Graph
from service.cam.layers import LayerCall
from service.errors import first_line, kind_and_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from torch.autograd.graph import Node

    from service.cam.capture import Capture
    from service.cam.layers import Layer
    from service.cam.modules import ModuleDescription
    from service.cam.network import AttentionCapture, Network, Observer

__all__ = ["FoldedNetwork", "NotFolded", "folded"]

log = logging.getLogger("camserve.models")

_Result = TypeVar("_Result")

# How far what the two compute may lie apart, relative to the largest value. Of 16 bits each operation rounds.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.bfloat16: 5e-2, torch.float16: 1e-2}
_SAMPLED = 4096  # values of an output that are compared, about
_LOGITS = LayerCall("")  # the network itself

# Of a network's parameters, how much a twin may have of its own: means and deviations, tables of positions. Of
# torchvision's classifiers DenseNet-201 has most, 1.1 %.
_MOST_COPIED = 0.1

_Folds = frozenset[FoldedConvolution]


class NotFolded(Exception):
    """A network computes with its modules as they are; the message says why, in a sentence."""


class FoldedNetwork:
    """A ``Network`` that computes with folded convolutions wherever that gives the same.

    What some layers give out is then another thing than in the network itself, or nothing. A convolution of which such
    a layer is wanted is computed by the modules as they are. So is whatever looks at the whole network, and everything,
    from the first picture on for which the network's code does something else with such an output than at load.
    """

    def __init__(self, own: EagerNetwork, folds: Sequence[FoldedConvolution], within: Mapping[str, _Folds]) -> None:
        """Fold while ``own`` is computed; ``within`` has, by a layer's name, the folds that do away with its output."""
        self._own, self._folds, self._within = own, folds, within

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
        return sum(fold.nbytes for fold in self._folds)

    @property
    def has_strayed(self) -> bool:
        """Whether its code did something else than at load, so that it computes with the modules as they are."""
        return not self._folds

    def twin(self, image: Tensor) -> FoldedNetwork | None:
        """Return another network of the same weights, in modules of its own: two threads can compute with the two.

        None where the modules cannot be told from what others have, too: hooks, programs, code that goes on calling
        this network's modules, what cannot be copied. Nor is a network copied that keeps much else than parameters.

        Args:
            image: some picture (1, C, H, W).
        """
        module = self.own_module
        shared = {id(each): each for each in chain(module.parameters(), *(fold.tensors for fold in self._folds))}
        most = _MOST_COPIED * sum(each.nbytes for each in module.parameters())
        if not all(map(_can_be_copied, module.modules())) or sum(each.nbytes for each in module.buffers()) > most:
            return None
        copied: dict[int, Any] = dict(shared)
        try:
            twin = deepcopy(self, copied)
            is_apart = _calls(twin._own, image) == _calls(self._own, image)
        except Exception as error:  # noqa: BLE001  # attributes of a user's modules may be anything
            log.info("a network is not computed in parts, as it cannot be copied: %s", first_line(error))
            return None
        kept = (each for key, each in copied.items() if key not in shared and hasattr(type(each), "__array__"))
        is_apart = is_apart and set(twin.own_module.modules()).isdisjoint(module.modules())
        return twin if is_apart and sum(getattr(each, "nbytes", 0) for each in kept) <= most else None

    def _computed(self, compute: Callable[[], _Result], layers: Sequence[LayerCall] = ()) -> _Result:
        """Compute with folded convolutions, but for those that do away with what one of ``layers`` gives out."""
        folds = self._without([layer.module for layer in layers])
        if not folds:
            return compute()
        try:
            with _in_place(folds):
                return compute()
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (Strayed, Exception) as error:  # noqa: BLE001  # whatever a network's code raises about what it cannot read
            raised = kind_and_line(error)  # the error itself would keep activations alive
        result = compute()  # which raises where the network does so by itself
        log.info("a network is computed without folding from now on, where it raised %s", raised)
        self._folds = ()
        return result

    def _without(self, names: Sequence[str]) -> Sequence[FoldedConvolution]:
        """Return the folds but for those that do away with what a module of one of ``names`` gives out."""
        without = frozenset[FoldedConvolution]().union(*(self._within.get(name, ()) for name in names))
        return [fold for fold in self._folds if fold not in without] if without else self._folds

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
        if other is None:
            return None
        names = [name for name in self._within if self.own_module.get_submodule(name) is other.randomised]
        return FoldedNetwork(other, self._without(names), self._within)

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


def _can_be_copied(part: nn.Module) -> bool:
    """Whether a copy of a module has nothing in common with it, as far as one can see: what it holds ends with it."""
    if _is_listened_to(part) or isinstance(part, torch.jit.ScriptModule):
        return False
    held = list(vars(part).values())
    within = chain.from_iterable(
        each.values() if isinstance(each, dict) else each
        for each in held
        if isinstance(each, dict | list | tuple | set)
    )
    return not any(hasattr(type(each), "__del__") for each in chain(held, within))


def _calls(own: EagerNetwork, image: Tensor) -> list[LayerCall]:
    """Return the calls of all modules in one pass."""
    calls: list[LayerCall] = []
    names = [name for name, _ in own._module.named_modules() if name]
    own.observe(image.clone().requires_grad_(), names, lambda call, _output, _node: calls.append(call))
    return calls


@contextmanager
def _in_place(folds: Iterable[FoldedConvolution]) -> Iterator[None]:
    """Fold the modules; they are as before when the block ends or raises."""
    this = object()
    try:
        for fold in folds:
            fold.in_pass = this
            vars(fold.convolution)["forward"] = fold.convolve
            if type(fold.normalisation) is nn.BatchNorm2d:  # others do more than that: see Withheld
                vars(fold.normalisation)["forward"] = fold.normalise
        yield
    finally:
        for fold in folds:
            fold.in_pass = None
            vars(fold.convolution).pop("forward", None)
            if fold.normalisation is not None:
                vars(fold.normalisation).pop("forward", None)


def folded(module: nn.Module, images: Tensor, hidden: Collection[str] = ()) -> FoldedNetwork:
    """Fold a network of one output.

    Args:
        module: frozen and in eval mode; it is changed while a pass runs, and only then.
        images: one or more, (N, C, H, W); the first is what is tried.
        hidden: names of submodules that are no layers.

    Raises:
        NotFolded: there is nothing to fold, or it does not compute the same.
    """
    own = EagerNetwork(module, None, hidden)
    try:
        return _folded(own, images[:1])
    except (NotFolded, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (Strayed, Exception) as error:  # noqa: BLE001  # of the network's own code, which is watched
        raise NotFolded(f"Watched, it raises an error. {kind_and_line(error)}.") from None


def _folded(own: EagerNetwork, image: Tensor) -> FoldedNetwork:
    foldable = False
    plain = _plain_pass(own, image)
    pairs = plain.foldable(own._module)
    # What else a module does that is more than a normalisation, nobody knows.
    certain = [(part, then if type(then) is nn.BatchNorm2d else None) for part, then in pairs]
    for packs, tried in product((True, False), [pairs] if certain == pairs else [pairs, certain]):
        made = (FoldedConvolution(*pair, packs=packs) for pair in tried)
        folds = tuple(fold for fold in made if fold.gains)
        foldable |= bool(folds)
        within = _tried(own, folds, image, plain.values) if folds else None
        if within is not None:
            return FoldedNetwork(own, folds, within)
    raise NotFolded(
        "Folded, it raises an error or does not compute the same."
        if foldable
        else "It has no plain convolution that would be computed sooner."
    )


def _tried(
    own: EagerNetwork, folds: Sequence[FoldedConvolution], image: Tensor, wanted: Mapping[LayerCall, Tensor]
) -> dict[str, _Folds] | None:
    """Let convolutions wait where they can, or none; return what ``_compared`` does."""
    _find_out_what_comes_next(own, folds, image)
    within = _compared(own, folds, image, wanted)
    if within is None:
        for fold in folds:
            fold.never_wait()
        within = _compared(own, folds, image, wanted)
    return within


def _unless_it_raises(compute: Callable[[], _Result]) -> _Result | None:
    """Compute; None where the network's own code raises about what it cannot read, which may be anything."""
    try:
        return compute()
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except (Strayed, Exception):  # noqa: BLE001
        return None


@dataclass(frozen=True)
class _Pass:
    """What a pass through the modules as they are shows.

    Attributes:
        values: some values that each call of a module gave out, and the network itself.
        once: the modules that were called once, with the autograd node of what they gave out and of its copy, which
            only what comes next can use.
        graph: what the logits depend on.
    """

    values: dict[LayerCall, Tensor]
    once: dict[str, tuple[Any, Node | None]]
    graph: Graph

    def foldable(self, module: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
        """Return the convolutions, with the normalisation that comes next where nothing else does."""
        parts = dict(module.named_modules())
        plain = [part for part in parts.values() if type(part) is nn.Conv2d and _can_be_folded(part)]
        given = {copied: parts[name] for name, (_, copied) in self.once.items() if parts[name] in plain}
        normalised: dict[nn.Module, nn.BatchNorm2d] = {}
        for name, (made, copied) in self.once.items():
            part = parts[name]
            normalises = isinstance(part, nn.BatchNorm2d) and _can_be_folded(part) and part.running_mean is not None
            before = _before_normalisation(made) if normalises and copied in self.graph.nodes else None
            if before in given and self.graph.nodes.in_degree(before) == 1:
                normalised[given[before]] = part
        return [(part, normalised.get(part)) for part in plain]


def _plain_pass(own: EagerNetwork, image: Tensor) -> _Pass:
    made: dict[LayerCall, tuple[Any, Node | None]] = {}
    values: dict[LayerCall, Tensor] = {}

    def see(call: LayerCall, output: object, node: Node | None) -> None:
        made[call] = getattr(output, "grad_fn", None), node
        values.update(_some_of(call, output))

    inputs = image.clone().requires_grad_()
    logits = own.observe(inputs, [name for name, _ in own._module.named_modules() if name], see)
    calls = Counter(call.module for call in made)
    once = {call.module: nodes for call, nodes in made.items() if calls[call.module] == 1}
    return _Pass(values | _some_of(_LOGITS, logits), once, Graph.of(logits, inputs, ()))


_LISTENERS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _can_be_folded(part: nn.Module) -> bool:
    """Whether a module computes what its class does, and nobody listens to it."""
    return not part.training and not _is_listened_to(part) and "forward" not in vars(part)


def _before_normalisation(node: Node | None) -> Node | None:
    """Go up from what a normalisation gave out, past what it does behind that, to what it has read."""
    while node is not None and not node.name().endswith("BatchNormBackward0"):
        before = [function for function, _ in node.next_functions if function is not None]
        node = before[0] if len(before) == 1 else None
    return None if node is None else node.next_functions[0][0]


def _is_listened_to(part: nn.Module) -> bool:
    return any(getattr(part, hooks, None) for hooks in _LISTENERS)


def _find_out_what_comes_next(own: EagerNetwork, folds: Sequence[FoldedConvolution], image: Tensor) -> None:
    """Let each convolution wait for the activation or the addition that comes next, where one always does."""
    for fold in folds:
        fold.find_out()
    seen = _unless_it_raises(lambda: _layers_within(own, folds, image))
    for fold in folds:
        fold.found_out()
    if seen is None:
        unwanted = set(folds)
    else:  # who listens expects a tensor
        listened = (those for name, those in seen[0].items() if _is_listened_to(own._module.get_submodule(name)))
        unwanted = {fold for those in listened for fold in those}
    for fold in unwanted:
        fold.never_wait()


def _layers_within(
    own: EagerNetwork, folds: Sequence[FoldedConvolution], image: Tensor
) -> tuple[dict[str, _Folds], dict[LayerCall, Tensor]]:
    """Return, by name, the folds that do away with what a layer gives out, and some values of all other outputs."""
    within: dict[str, set[FoldedConvolution]] = {}
    values: dict[LayerCall, Tensor] = {}

    def see(call: LayerCall, output: object, _node: Node | None) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Pending | Withheld):
            within.setdefault(call.module, set()).add(first.by)
        values.update(_some_of(call, output))

    names = [name for name, _ in own._module.named_modules() if name]
    with _in_place(folds):
        logits = own.observe(image, names, see)
    return {name: frozenset(those) for name, those in within.items()}, values | _some_of(_LOGITS, logits)


def _compared(
    own: EagerNetwork, folds: Sequence[FoldedConvolution], image: Tensor, wanted: Mapping[LayerCall, Tensor]
) -> dict[str, _Folds] | None:
    """Return, by name, the folds that do away with what a layer gives out.

    None where the network's logits are not the same when it is folded, or what another layer gives out is not.
    """
    seen = _unless_it_raises(lambda: _layers_within(own, folds, image))
    if seen is None:
        return None
    within, found = seen
    tolerance = _TOLERANCE[image.dtype]
    others = {call: values for call, values in wanted.items() if call.module not in within}
    same_layers = others.keys() <= found.keys()
    same = same_layers and all(logits_apart(found[call], others[call]) <= tolerance for call in others)
    return within if same else None


def _some_of(call: LayerCall, output: object) -> dict[LayerCall, Tensor]:
    """Return some values of what a call gives out, copied before the network writes into it; of numbers nothing."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return {}
    step = max(1, math.isqrt(output.numel() // _SAMPLED))
    some = output.detach()[..., ::step]
    some = some[..., ::step, :] if some.ndim > 1 else some
    return {call: some.to(torch.float32, copy=True)}
