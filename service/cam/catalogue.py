"""The layer catalogue: what every layer of a network gives out, found by running it once.

One forward pass of two random images tells the order of the layers and their shapes; its autograd graph tells which
layers lie on the way to the logits, and which of them carry everything the network sees (dominators of the graph)
rather than one branch of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from service.cam.graph import Graph
from service.cam.layers import Layer, LayerCall, Layout, find_layout, rows_first
from service.errors import ModelOutputError
from service.placement import Placement
from service.vocabulary import ChannelLayout

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch.autograd.graph import Node

    from service.cam.modules import ModuleDescription
    from service.cam.network import Network

__all__ = ["depends_on", "probe_layers"]

_BRANCH = (
    "on one of several parallel paths (a residual or concatenated branch): shows what reaches the logits by this path, "
    "not all that the network sees here"
)


_ALTERED = (
    "a forward hook of the model changes what this layer gives out, and the network goes on with that: explain the "
    "layer behind it, or make what the hook does a module"
)
_OFF_THE_WAY = "not on the way to the logits"
_NO_GRAD = "the network computes it under torch.no_grad()"
_INFERENCE_MODE = "the network computes it under torch.inference_mode()"
_REENTRANT = "it lies inside torch.utils.checkpoint with use_reentrant=True"
_DETACHED = (
    "what it gives out is cut from the graph behind it (.detach(), .data, torch.no_grad(), a trip through NumPy)"
)


_SIDES: dict[ChannelLayout, Literal["first", "last"]] = {"NCHW": "first", "NHWC": "last"}


@dataclass
class _Record:
    call: LayerCall
    module: ModuleDescription
    shape: tuple[int, ...]  # images first
    node: Node | None
    # The output, images first, of sequences of tokens alone.
    tokens: Tensor | None = None
    layout: Layout | None = None
    unrecorded: str | None = None
    altered: bool = False


@dataclass
class _Probe:
    """Looks at the output of every module, and keeps what the catalogue says of it."""

    inputs: Tensor
    modules: Mapping[str, ModuleDescription]
    channels: ChannelLayout | None = None
    records: list[_Record] = field(default_factory=list)
    grids: set[tuple[int, int]] = field(default_factory=set)
    tokens: int | None = None

    @property
    def calls(self) -> Counter[str]:
        """How often each module was called."""
        return Counter(record.call.module for record in self.records)

    def see(self, call: LayerCall, output: object, node: Node | None) -> None:
        """Keep a record of a call; see ``Network.observe``."""
        module = self.modules[call.module]
        if not isinstance(output, Tensor):
            self.records.append(_Record(call, module, (), None))
            return
        record = _Record(call, module, tuple(output.shape), node, unrecorded=_unrecorded())
        if record.shape[:1] == (len(self.inputs),):
            record.layout = self._find_layout(module, record.shape)
        elif len(record.shape) == 3 and record.shape[1] == len(self.inputs):
            self._take_for_sequence(record, output)
        if record.layout is not None and record.layout.kind == "tokens":
            record.tokens = rows_first(output, record.call.batch_axis).detach()
        self.records.append(record)

    def _take_for_sequence(self, record: _Record, output: Tensor) -> None:
        """Take an output (T, N, C) for a sequence of tokens, if T of them are a grid."""
        shape = tuple(output.transpose(0, 1).shape)
        record.layout = self._find_layout(record.module, shape)
        if record.layout is not None:
            record.shape, record.call = shape, replace(record.call, batch_axis=1)

    def _find_layout(self, module: ModuleDescription, shape: tuple[int, ...]) -> Layout | None:
        if module.channels != "first" and self.tokens in _repeated(shape):
            return None  # (N, heads, T, T): attention among T tokens
        height, width = self.inputs.shape[2:]
        if self.channels is not None and len(shape) == 4:
            layout = find_layout(shape, height, width, _SIDES[self.channels])
        else:
            layout = find_layout(shape, height, width, module.channels, self.grids)
        if layout is not None and layout.height * layout.width > 1:
            self.grids.add((layout.height, layout.width))
            self.tokens = shape[1] if layout.kind == "tokens" else self.tokens
        return layout


def _repeated(shape: tuple[int, ...]) -> set[int]:
    """Sizes that two neighbouring axes of a 4-D output share, the batch aside."""
    return {a for a, b in pairwise(shape[1:]) if a == b} if len(shape) == 4 else set()


def _unrecorded() -> str | None:
    """Say why the network records no graph at this moment, or None where it does."""
    if torch.is_inference_mode_enabled():
        return _INFERENCE_MODE
    return None if torch.is_grad_enabled() else _NO_GRAD


def probe_layers(network: Network, inputs: Tensor, channels: ChannelLayout | None = None) -> list[Layer]:
    """List every layer of ``network`` in forward order.

    Args:
        network: left as it was.
        inputs: two or more different images, (N, 3, H, W), in the network's dtype.
        channels: where all 4-D activations have theirs; None to find out of each, by its type and its shape.

    Returns:
        One row per call of every module but the root; modules that are never called come last.

    Raises:
        ModelOutputError: the network does not return logits (N, classes).
    """
    probe, logits = _probe(network, inputs, channels)
    if any(record.call.batch_axis for record in probe.records):
        _check_sequences(probe.records, _probe(network, inputs.flip(0), channels)[0].records)
    altered = network.altered(inputs)
    for record in probe.records:
        record.altered = (record.call.module, record.call.call) in altered
    graph = Graph.of(logits, probe.inputs, [record.node for record in probe.records])
    unread = _layers_hardly_read(logits, probe)
    calls = probe.calls
    layers = [_row(record, order, probe, graph, calls, unread) for order, record in enumerate(probe.records)]
    beside = _branches_beside(layers, probe.records, graph)
    layers = [
        _without_gradient(_with_branches(layer, beside), record, network, inputs, graph)
        for layer, record in zip(layers, probe.records, strict=True)
    ]
    idle = [(name, module) for name, module in probe.modules.items() if name not in calls]
    return layers + [_idle(name, module, len(layers) + i, calls) for i, (name, module) in enumerate(idle)]


def _probe(network: Network, inputs: Tensor, channels: ChannelLayout | None) -> tuple[_Probe, Tensor]:
    """Run the network under observation; return what was seen, and the logits with their graph."""
    probe = _Probe(inputs.detach().clone().requires_grad_(), network.modules(), channels)
    return probe, network.observe(probe.inputs, probe.modules, probe.see, across_cuts=True)


def _check_sequences(records: list[_Record], swapped: list[_Record]) -> None:
    """Take back what was taken for (T, N, C) and is not: there, images that change places change them in the output."""
    for record, other in zip(records, swapped, strict=True):
        if not record.call.batch_axis:
            continue
        assert record.tokens is not None
        assert other.tokens is not None
        if not torch.allclose(other.tokens.float(), record.tokens.flip(0).float(), rtol=1e-2, atol=1e-3):
            n, length, *rest = record.shape
            record.shape, record.call = (length, n, *rest), replace(record.call, batch_axis=0)
            record.layout = record.tokens = None


def _branches_beside(layers: Sequence[Layer], records: Sequence[_Record], graph: Graph) -> dict[str, tuple[str, ...]]:
    """Name, for every layer that can be explained, the last layers of those branches that it does not feed."""
    by_node = {
        record.node: layer
        for record, layer in zip(records, layers, strict=True)
        if layer.explainable and record.node is not None
    }
    ends = {node: graph.behind(node) for node in graph.met_first(by_node)}
    # The skip connection around a last block of which only the class token is read is a path too, but of no patch.
    skips = {node for end, fed in ends.items() if _has_special_tokens(by_node[end]) for node in fed & ends.keys()}
    return {
        layer.name: tuple(
            by_node[end].name for end, fed in ends.items() if end not in skips and node != end and node not in fed
        )
        for node, layer in by_node.items()
    }


def _has_special_tokens(layer: Layer) -> bool:
    return layer.layout is not None and layer.layout.special > 0


def _with_branches(layer: Layer, beside: Mapping[str, tuple[str, ...]]) -> Layer:
    """Say which branches of the network a layer does not show."""
    others = beside.get(layer.name, ())
    if not others:
        return layer
    layer = replace(layer, beside=others)
    return replace(layer, note=(layer.note or _BRANCH).replace(_BRANCH, layer.covers or _BRANCH))


_RECURRENT = {"GRU", "LSTM", "RNN"}


def _layers_hardly_read(logits: Tensor, probe: _Probe) -> dict[LayerCall, str]:
    """Say of which token layers no place is read behind them: as in a ViT's last block, or of all steps but the last.

    Returns:
        Their calls, each with what is read of it.
    """
    tokens = [record for record in probe.records if record.tokens is not None and record.node is not None]
    if not tokens or not logits.requires_grad:
        return {}
    edges = [GradientEdge(record.node, 0) for record in tokens if record.node is not None]
    try:
        # Squared, so that logits that sum to a constant still have a gradient.
        gradients = torch.autograd.grad(logits.float().square().sum(), edges, allow_unused=True)
    except RuntimeError:
        return {}  # the network cannot be differentiated: whoever tries its methods finds out why
    recurrent = any(module.type in _RECURRENT for module in probe.modules.values())
    unread = {}
    for record, found in zip(tokens, cast("Sequence[Tensor | None]", gradients), strict=True):
        assert record.layout is not None
        if found is None:
            continue
        gradient = rows_first(found, record.call.batch_axis)
        read: list[int] = gradient.any(2).any(0).nonzero().flatten().tolist()
        # A head of zeros, as torchvision initialises ViT, has no gradient anywhere: that says nothing of the layer.
        if 0 < len(read) <= max(1, record.layout.special):
            special = not recurrent and read[-1] < record.layout.special
            unread[record.call] = _CLASS_TOKEN if special else _what_is_read(read, gradient.shape[1])
    return unread


_CLASS_TOKEN = "only the class token is read behind this layer: the gradient is zero on every patch"  # noqa: S105


def _what_is_read(read: Sequence[int], length: int) -> str:
    if len(read) > 1:
        return f"only {len(read)} of its {length} positions are read behind this layer: the gradient is zero elsewhere"
    which = {0: "the first", length - 1: "the last"}.get(read[0], f"number {read[0] + 1}")
    return f"only {which} of its {length} positions is read behind this layer: the gradient is zero on all others"


def _row(
    record: _Record, order: int, probe: _Probe, graph: Graph, calls: Mapping[str, int], unread: Mapping[LayerCall, str]
) -> Layer:
    refused = _refusal(record, len(probe.inputs), graph, unread)
    on_every_path = record.node in graph.on_every_path
    times = calls[record.call.module]
    notes = [refused] if refused else [] if on_every_path else [_BRANCH]
    if times > 1:
        notes.append(f"call {record.call.call} of {times} of this module")
    layout = record.layout
    return Layer(
        name=f"{record.call.module}:{record.call.call}" if times > 1 else record.call.module,
        call=record.call,
        type=record.module.type,
        kind=record.module.kind,
        shape=_grid_shape(record.shape, layout) if layout else record.shape[1:],
        layout=layout,
        stride=round(probe.inputs.shape[2] / layout.height) if layout else None,
        order=order,
        on_every_path=on_every_path,
        explainable=refused is None,
        note="; ".join(notes) or None,
        placement=Placement.stretched(layout.height, layout.width, *probe.inputs.shape[2:]) if layout else None,
    )


def _refusal(record: _Record, batch: int, graph: Graph, unread: Mapping[LayerCall, str]) -> str | None:
    """Say why no map can be made of this layer, or None where one can."""
    if not record.shape:
        return "its output is not a single tensor"
    if record.shape[0] != batch:
        return "its output has not one row per picture"
    if record.layout is None:
        sizes = list(record.shape[1:])
        if len(sizes) < 2:
            return f"its output has no rows and columns: {sizes}"
        return f"its axes are not the rows and columns of the picture: {sizes}"
    if record.layout.height * record.layout.width == 1:
        return "1×1 output: no position is left to show"
    if record.altered:
        return _ALTERED
    if record.node is None or record.node not in graph.nodes:
        return _OFF_THE_WAY
    return unread.get(record.call)


def _without_gradient(layer: Layer, record: _Record, network: Network, inputs: Tensor, graph: Graph) -> Layer:
    """Allow a layer that the logits depend on, though no gradient of theirs reaches it, with the reason."""
    if layer.note is None or not layer.note.startswith(_OFF_THE_WAY):
        return layer
    if not depends_on(network, inputs[:1], layer):
        return layer
    cause = record.unrecorded or _DETACHED
    if cause == _NO_GRAD and graph.has("CheckpointFunctionBackward"):
        cause = _REENTRANT
    note = layer.note.replace(
        _OFF_THE_WAY, f"no gradient reaches it, since {cause}: for methods without gradients only"
    )
    return replace(layer, explainable=True, no_gradient=cause, note=note)


def depends_on(network: Network, image: Tensor, layer: Layer) -> bool:
    """Whether the logits for ``image`` (1, 3, H, W) change with the layer's output, whatever the graph says."""
    captured = network.capture(image, [layer.call], 0)
    kept = captured.activations[layer.call].float()
    noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0)).to(kept) * (1 + kept.std())
    try:
        others = network.resume(image, layer, (kept + noise).to(image.dtype))
    except (RuntimeError, ModelOutputError):
        return True
    logits, others = captured.logits.float(), others.float()
    return not torch.allclose(others, logits, rtol=1e-5, atol=1e-6 * float(logits.abs().max()))


def _grid_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    channels = shape[1] if layout.kind == "nchw" else shape[-1]
    return channels, layout.height, layout.width


def _idle(name: str, module: ModuleDescription, order: int, calls: Collection[str]) -> Layer:
    reason = "never called in the forward pass"
    if not module.watchable:
        reason = "it is TorchScript, whose layers cannot be watched"
    elif any(called.startswith(f"{name}.") for called in calls):
        reason = "holds layers and is not called itself"
    elif name.rpartition(".")[0] in calls and module.weighted:
        reason += " (the layer that holds it may use its weights)"
    return Layer(
        name,
        LayerCall(name),
        module.type,
        module.kind,
        (),
        None,
        None,
        order,
        on_every_path=False,
        explainable=False,
        note=reason,
    )
