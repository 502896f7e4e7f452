"""The layer catalogue: what every layer of a network gives out, found by running it once.

One forward pass of two random images tells the order of the layers and their shapes; its autograd graph tells which
layers lie on the way to the logits, and which of them carry everything the network sees (dominators of the graph)
rather than one branch of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import networkx
import torch
from torch import Tensor

from service.cam.layers import Layer, LayerCall, Layout, find_layout
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch.autograd.graph import Node

    from service.cam.modules import ModuleDescription
    from service.cam.network import Network

__all__ = ["probe_layers"]

_BRANCH = (
    "on one of several parallel paths (a residual or concatenated branch): shows what reaches the logits by this path, "
    "not all that the network sees here"
)


@dataclass
class _Record:
    call: LayerCall
    module: ModuleDescription
    shape: tuple[int, ...]
    node: Node | None
    # The output, of token layers alone: they are asked which of their tokens have a gradient.
    tokens: Tensor | None = None
    layout: Layout | None = None


@dataclass
class _Probe:
    """Looks at the output of every module, and keeps what the catalogue says of it."""

    inputs: Tensor
    modules: Mapping[str, ModuleDescription]
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
        record = _Record(call, module, tuple(output.shape), node)
        if record.shape[:1] == (len(self.inputs),):
            record.layout = self._find_layout(module, record.shape)
        if record.layout is not None and record.layout.kind == "tokens":
            record.tokens = output
        self.records.append(record)

    def _find_layout(self, module: ModuleDescription, shape: tuple[int, ...]) -> Layout | None:
        if module.channels != "first" and self.tokens in _repeated(shape):
            return None  # (N, heads, T, T): attention among T tokens
        height, width = self.inputs.shape[2:]
        layout = find_layout(shape, height, width, module.channels, self.grids)
        if layout is not None and layout.height * layout.width > 1:
            self.grids.add((layout.height, layout.width))
            self.tokens = shape[1] if layout.kind == "tokens" else self.tokens
        return layout


def _repeated(shape: tuple[int, ...]) -> set[int]:
    """Sizes that two neighbouring axes of a 4-D output share, the batch aside."""
    return {a for a, b in pairwise(shape[1:]) if a == b} if len(shape) == 4 else set()


def probe_layers(network: Network, inputs: Tensor) -> list[Layer]:
    """List every layer of ``network`` in forward order.

    Args:
        network: left as it was.
        inputs: two or more images, (N, 3, H, W), in the network's dtype.

    Returns:
        One row per call of every module but the root; modules that are never called come last.

    Raises:
        ModelOutputError: the network does not return logits (N, classes).
    """
    probe = _Probe(inputs.detach().requires_grad_(), network.modules())
    logits = network.observe(probe.inputs, probe.modules, probe.see)
    graph = _Graph(*_walk(logits.grad_fn), _layers_without_patch_gradient(logits, probe.records))
    calls = probe.calls
    layers = [_row(record, order, probe, graph, calls) for order, record in enumerate(probe.records)]
    idle = [(name, module) for name, module in probe.modules.items() if name not in calls]
    return layers + [_idle(name, module, len(layers) + i, calls) for i, (name, module) in enumerate(idle)]


@dataclass(frozen=True)
class _Graph:
    """What the autograd graph says of layers.

    Attributes:
        reachable: nodes that the logits depend on.
        on_every_path: those of them that every path from the logits to the input goes through.
        unread: token layers whose patches nothing behind them reads.
    """

    reachable: set[Node]
    on_every_path: set[Node]
    unread: set[LayerCall]


def _walk(root: Node | None) -> tuple[set[Node], set[Node]]:
    """Return the graph nodes the logits depend on, and those of them that every path to the input goes through."""
    if root is None:
        return set(), set()
    graph = networkx.DiGraph()
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for following in _successors(node):
            if following not in graph:
                waiting.append(following)
            graph.add_edge(node, following)
    # The parameters are frozen, so the only leaf that accumulates a gradient is the input.
    leaf = next(node for node in graph if node.name().endswith("AccumulateGrad"))
    parents = networkx.immediate_dominators(graph, root)
    on_every_path = {root}
    while leaf is not root:
        on_every_path.add(leaf)
        leaf = parents[leaf]
    return set(graph), on_every_path


def _successors(node: Node) -> list[Node]:
    # Constants among the operands stand as None.
    return [following for following, _ in node.next_functions if following is not None]


def _layers_without_patch_gradient(logits: Tensor, records: list[_Record]) -> set[LayerCall]:
    """Token layers behind which only special tokens are read, as in the last block of a ViT."""
    tokens = [record for record in records if record.tokens is not None and record.tokens.requires_grad]
    if not tokens or not logits.requires_grad:
        return set()
    outputs = [record.tokens for record in tokens if record.tokens is not None]
    # Squared, so that logits that sum to a constant still have a gradient.
    gradients = torch.autograd.grad(logits.float().square().sum(), outputs, materialize_grads=True)
    unread = set()
    for record, gradient in zip(tokens, gradients, strict=True):
        assert record.layout is not None
        read = int(gradient.any(2).any(0).sum())
        # A head of zeros, as torchvision initialises ViT, has no gradient anywhere: that says nothing of the layer.
        if 0 < read <= record.layout.special:
            unread.add(record.call)
    return unread


def _row(record: _Record, order: int, probe: _Probe, graph: _Graph, calls: Mapping[str, int]) -> Layer:
    refused = _refusal(record, len(probe.inputs), graph)
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


def _refusal(record: _Record, batch: int, graph: _Graph) -> str | None:
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
    if record.node not in graph.reachable:
        return "not on the way to the logits"
    if record.call in graph.unread:
        return "only the class token is read behind this layer: the gradient is zero on every patch"
    return None


def _grid_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    channels = shape[1] if layout.kind == "nchw" else shape[-1]
    return channels, layout.height, layout.width


def _idle(name: str, module: ModuleDescription, order: int, calls: Collection[str]) -> Layer:
    reason = "never called in the forward pass"
    if any(called.startswith(f"{name}.") for called in calls):
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
