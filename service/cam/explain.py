"""The one orchestrator of the maths: (network, batch, targets) to logits and raw maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.capture import Capture
from service.cam.context import ForwardPass, LayerContext
from service.cam.fusion import fuse
from service.cam.methods import FORWARD_KINDS, METHODS
from service.cam.pace import Pace
from service.cam.perturbation import noise_like
from service.cam.raw_map import RawMap
from service.cam.targets import PLAIN, CamOptions, Targets, Top
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.cam.layers import Layer, LayerCall
    from service.cam.methods import ForwardKind, Method
    from service.cam.network import Network
    from service.placement import Placement
    from service.vocabulary import Fuse

__all__ = ["Checkpoint", "Explained", "explain", "predict"]

Checkpoint = Callable[[int, int], None]
"""Called with (done, total) between steps: the place to let others compute, or to give up by raising."""

# Finer-CAM compares with the three nearest classes, at the strength its authors find best.
_FINER_CLASSES, _FINER_STRENGTH = 3, 0.6


@dataclass(frozen=True)
class Explained:
    """One image's logits and maps, on the CPU.

    Attributes:
        logits: (classes,) float32.
        maps: one per layer, method and target, in that order of nesting; layers, methods and targets as asked.
    """

    logits: Tensor
    maps: tuple[RawMap[Tensor], ...]


def predict(network: Network, inputs: Tensor) -> Tensor:
    """Return float32 logits (N, classes), on the CPU, for ``inputs`` (N, 3, H, W), with no gradient work.

    Raises:
        ModelOutputError: the logits are not of that shape or not finite.
    """
    return _finite_logits(network.predict(inputs))


def explain(  # noqa: PLR0913  # the two that come last are rarely given
    network: Network,
    inputs: Tensor,
    targets: Sequence[Targets],
    layers: Sequence[Layer],
    methods: Sequence[str],
    options: CamOptions = PLAIN,
    checkpoint: Checkpoint = lambda _done, _total: None,
    heads: int = 1,
) -> list[Explained]:
    """Explain the classes that each row of a batch asks for.

    Cheap methods cost one forward pass for all layers, methods and targets together; those that differentiate twice
    share another, and those that read attention a third.

    Args:
        network: what is explained.
        inputs: (N, 3, H, W) in the network's dtype.
        targets: one entry per row; rows may ask for different classes and different numbers of them.
        layers: where to look; the same for all rows.
        methods: names from ``METHODS``; the same for all rows.
        options: how maps are made; the same for all rows.
        checkpoint: called between steps, with no hook in place: passes, maps, chunks of what is perturbed. A step is no
            longer than one pass, forward or backward, or than ``STEP_S``.
        heads: how many heads' logits lie side by side; see ``Network.beside_random_head``. A class of the second has
            the first's number and as many more as a head has classes; ``against`` is the number in the first.

    Returns:
        One entry per row. The maths is done in float32 whatever the network's dtype.

    Raises:
        ModelOutputError: logits or a map are not finite; the message names the layer.
    """
    calls = [layer.call for layer in layers]
    logits = predict(network, inputs) if options.smooth else None
    stacks: list[_Stack] = []
    pace = Pace()
    for step, (view, restore) in enumerate(_views(inputs, options)):
        within = _part(checkpoint, step, options.views)
        captured = _captures(network, view, calls, methods, within)
        # Views vary the image, not the targets: "predicted" is what the image itself is predicted to be.
        if logits is None:
            logits = _finite_logits(next(iter(captured.values())).logits)
        task = _View(network, view, captured, logits, targets, layers, methods, within, pace, heads)
        found = [replace(stack, values=restore(stack.values) / options.views) for stack in task.stacks()]
        stacks = [one.plus(other) for one, other in zip(stacks, found, strict=True)] if stacks else found
    assert logits is not None
    if not options.signed:
        stacks = [replace(stack, values=stack.values.relu()) for stack in stacks]
    if options.fuse is not None:
        size = inputs.shape[2], inputs.shape[3]
        places = [layer.placed(options.registration, *size, flip=options.flip) for layer in layers]
        stacks = [_fused(stacks[j :: len(methods)], options.fuse, places) for j in range(len(methods))]
    stacks = [replace(stack, values=stack.values.cpu()) for stack in stacks]
    return [
        Explained(logits[n], tuple(raw for stack in stacks for raw in stack.row(n, classes)))
        for n, classes in enumerate(_resolve(targets, logits))
    ]


@dataclass(frozen=True)
class _Stack:
    """The maps of one layer and method: ``values`` (N, K, h, w) for K targets, ``zero_gradient`` (N, K) on the CPU."""

    layer: str
    method: str
    values: Tensor
    zero_gradient: Tensor

    def plus(self, other: _Stack) -> _Stack:
        """Add the same maps of another view; a gradient is zero if it is in both."""
        return replace(self, values=self.values + other.values, zero_gradient=self.zero_gradient & other.zero_gradient)

    def row(self, n: int, classes: Sequence[int]) -> Iterator[RawMap[Tensor]]:
        """Yield the maps of row ``n`` for its classes, which may be fewer than K."""
        for k, target in enumerate(classes):
            yield RawMap(self.layer, self.method, target, self.values[n, k], bool(self.zero_gradient[n, k]))


def _fused(stacks: Sequence[_Stack], how: Fuse, places: Sequence[Placement]) -> _Stack:
    """Make one stack of those of several layers; a gradient is zero if it is in all of them."""
    return _Stack(
        "+".join(stack.layer for stack in stacks),
        stacks[0].method,
        fuse([stack.values for stack in stacks], how, places),
        torch.stack([stack.zero_gradient for stack in stacks]).all(0),
    )


def _views(inputs: Tensor, options: CamOptions) -> Iterator[tuple[Tensor, Callable[[Tensor], Tensor]]]:
    """Yield what the network sees, and how a map of it is brought back to the image."""
    for sample in range(max(1, options.smooth)):
        view = inputs + noise_like(inputs, sample) if options.smooth else inputs
        yield view, lambda raw: raw
        if options.flip:
            yield view.flip(3), lambda raw: raw.flip(3)


def _part(checkpoint: Checkpoint, index: int, parts: int) -> Checkpoint:
    """The checkpoint of one of several equal parts of some work, for what is done within it."""
    return lambda done, total: checkpoint(index * total + done, parts * total)


def _captures(
    network: Network, inputs: Tensor, calls: Sequence[LayerCall], methods: Sequence[str], checkpoint: Checkpoint
) -> dict[ForwardKind, Capture]:
    """Run the network: once for most methods, and once for those that differentiate twice or read attention.

    For the latter a network may compute some things by other means, which the others' maps must not show.
    """
    asked = sorted((METHODS[name] for name in methods), key=lambda method: method.derivatives)
    derivatives = {method.forward_pass: method.derivatives for method in asked}
    captured: dict[ForwardKind, Capture] = {}
    for kind in (each for each in FORWARD_KINDS if each in derivatives):  # logits are taken from the first
        checkpoint(0, 1)
        if kind == "attention":
            attention = network.capture_attention(inputs, derivatives[kind])
            captured[kind] = Capture(attention.logits[-len(inputs) :], {}, attention)
        else:
            captured[kind] = network.capture(inputs, calls, derivatives[kind])
    return captured


@dataclass(frozen=True)
class _Known:
    """What a view has computed: maps by what they are of, and what methods share among targets."""

    maps: dict[tuple[object, ...], Tensor]
    shared: dict[object, Tensor]


@dataclass(frozen=True)
class _View:
    """One view of the batch: all maps of it, layers × methods × targets."""

    network: Network
    inputs: Tensor
    captured: dict[ForwardKind, Capture]
    logits: Tensor
    targets: Sequence[Targets]
    layers: Sequence[Layer]
    methods: Sequence[str]
    checkpoint: Checkpoint
    pace: Pace
    heads: int

    def stacks(self) -> list[_Stack]:
        """Return one stack per layer and method, in that order of nesting."""
        classes = _resolve(self.targets, self.logits)
        known = _Known({}, {})
        asked = list(product(self.layers, self.methods))
        most = max(len(row) for row in classes)
        # Target by target, so that the gradients of one are gone before those of the next are made.
        found = [self._of_target(k, classes, known, _part(self.checkpoint, k, most)) for k in range(most)]
        return [
            _Stack(
                layer.name, name, torch.stack([raw for raw, _ in maps], 1), torch.stack([zero for _, zero in maps], 1)
            )
            for (layer, name), maps in zip(asked, zip(*found, strict=True), strict=True)
        ]

    def _of_target(
        self,
        k: int,
        classes: Sequence[tuple[int, ...]],
        known: _Known,
        checkpoint: Checkpoint,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return what ``_map`` does for every row's k-th target, by layer and method."""
        passes = self._passes(classes, k)
        asked = list(product(self.layers, self.methods))
        return [
            self._map(name, layer, passes, k, known, _part(checkpoint, index, len(asked)))
            for index, (layer, name) in enumerate(asked)
        ]

    def _passes(self, classes: Sequence[tuple[int, ...]], k: int) -> dict[tuple[str, ForwardKind], ForwardPass]:
        """One pass per kind of score and of forward pass, for every row's k-th target."""

        def of(score: str, kind: ForwardKind) -> ForwardPass:
            weights = partial(self._logit_weights, classes, score=score)
            return ForwardPass(
                self.network,
                self.inputs,
                self.captured[kind],
                weights(k),
                k,
                lambda: torch.stack([weights(each) for each in range(max(map(len, classes)))]),
            )

        kinds = sorted({_pass_of(METHODS[name]) for name in self.methods})
        return {(score, kind): of(score, kind) for score, kind in kinds}

    def _logit_weights(self, classes: Sequence[tuple[int, ...]], k: int, score: str) -> Tensor:
        """Weights of the logits (N, classes) in every row's k-th score; zero for rows with fewer targets."""
        logit_weights = torch.zeros(self.logits.shape)
        for n, (asked, row) in enumerate(zip(self.targets, classes, strict=True)):
            if k >= len(row):
                continue
            size = logit_weights.shape[1] // self.heads
            head = slice(row[k] // size * size, (row[k] // size + 1) * size)  # where its logits are
            logit_weights[n, row[k]] += 1
            if asked.against is not None:
                logit_weights[n, head.start + asked.against] -= 1
            elif score == "finer":
                logit_weights[n, head] -= _FINER_STRENGTH * _nearest(self.logits[n, head], row[k] - head.start)
        return logit_weights

    def _map(
        self,
        name: str,
        layer: Layer,
        passes: dict[tuple[str, ForwardKind], ForwardPass],
        k: int,
        known: _Known,
        checkpoint: Checkpoint,
    ) -> tuple[Tensor, Tensor]:
        """Return maps (N, h, w), and for each whether its score's gradient is zero all over the layer (N,)."""
        method = METHODS[name]
        context = LayerContext(passes[_pass_of(method)], layer, checkpoint, self.pace, known.shared, self.heads)
        key = (name, layer.name if method.uses_layer else None, k if method.class_specific else None)
        if key not in known.maps:
            checkpoint(0, 1)
            known.maps[key] = _finite(method.compute(context), layer, name)
        raw = known.maps[key]
        if not (method.needs_gradients and method.uses_layer):
            return raw, torch.zeros(len(raw), dtype=torch.bool)
        zero_gradient = ~raw.flatten(1).any(1).cpu()
        if zero_gradient.any():
            zero_gradient &= ~context.gradients.flatten(1).any(1).cpu()
        return raw, zero_gradient


def _pass_of(method: Method) -> tuple[str, ForwardKind]:
    """Which pass a method looks at: its kind of score, and of forward pass."""
    return method.score, method.forward_pass


def _nearest(logits: Tensor, target: int) -> Tensor:
    """Equal weights, summing to 1, on the classes (classes,) whose logits are nearest to the target's."""
    distance = (logits - logits[target]).abs()
    distance[target] = torch.inf
    count = min(_FINER_CLASSES, len(logits) - 1)
    weights = torch.zeros_like(logits)
    weights[distance.argsort(stable=True)[:count]] = 1 / max(1, count)
    return weights


def _finite_logits(output: Tensor) -> Tensor:
    logits = output.detach().float().cpu()
    if not logits.isfinite().all():
        raise ModelOutputError("The model's logits are not finite (NaN or infinity) for this picture.")
    return logits


def _resolve(targets: Sequence[Targets], logits: Tensor) -> list[tuple[int, ...]]:
    """Return the classes that every row asks for, by index."""
    deepest = max((target.k for row in targets for target in row.classes if isinstance(target, Top)), default=0)
    # Stable, so that classes that tie are ranked by index here and wherever predictions are listed.
    rankings = logits.argsort(dim=1, descending=True, stable=True)[:, :deepest].tolist()
    return [row.resolve(ranking) for row, ranking in zip(targets, rankings, strict=True)]


def _finite(raw: Tensor, layer: Layer, method: str) -> Tensor:
    if not raw.isfinite().all():
        raise ModelOutputError(f"The {method} map at layer {layer.name!r} is not finite (NaN or infinity).")
    return raw
