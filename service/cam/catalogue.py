"""The layer catalogue: what every layer of a model gives out, found by running the model once.

One forward pass of two random pictures tells the order of the layers and their shapes; its autograd graph tells which
layers lie on the way to the logits, and which of them carry everything the network sees (dominators of the graph)
rather than one branch of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import networkx
import torch
from torch import Tensor, nn

from service.cam.capture import check_logits
from service.cam.layers import Layer, LayerCall, Layout, find_layout

if TYPE_CHECKING:
    from collections.abc import Collection

    from torch.autograd.graph import Node

    from service.vocabulary import LayerKind

__all__ = ["probe_layers"]

_BRANCH = (
    "on one of several parallel paths (a residual or concatenated branch): shows what reaches the logits by this path, "
    "not all that the network sees here"
)


@dataclass
class _Record:
    call: LayerCall
    module: nn.Module
    shape: tuple[int, ...]
    node: Node | None
    # Kept for tokens alone, where the gradient's zeros have to be looked at.
    tokens: Tensor | None = None
    layout: Layout | None = None


@dataclass
class _Probe:
    """Forward hooks on every module, and what they saw."""

    height: int
    width: int
    batch: int
    records: list[_Record] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    grids: set[tuple[int, int]] = field(default_factory=set)
    tokens: int | None = None

    def hook(self, name: str, module: nn.Module, output: Any) -> Tensor | None:
        call = LayerCall(name, self.calls.get(name, 0))
        self.calls[name] = call.call + 1
        if not isinstance(output, Tensor):
            self.records.append(_Record(call, module, (), None))
            return None
        # The copy has a node of its own: an in-place successor cannot take it over, and a layer that hands its input
        # through (an identity on a skip connection) is not taken for the layer before it.
        passed_on = output.clone()
        record = _Record(call, module, tuple(output.shape), passed_on.grad_fn)
        if record.shape[:1] == (self.batch,):
            record.layout = self._find_layout(module, record.shape)
        if record.layout is not None and record.layout.kind == "tokens":
            record.tokens = output
        self.records.append(record)
        return passed_on

    def _find_layout(self, module: nn.Module, shape: tuple[int, ...]) -> Layout | None:
        channels = _channels(module)
        if channels != "first" and self.tokens in _repeated(shape):
            return None  # (N, heads, T, T): attention among T tokens
        layout = find_layout(shape, self.height, self.width, channels, self.grids)
        if layout is not None and layout.height * layout.width > 1:
            self.grids.add((layout.height, layout.width))
            self.tokens = shape[1] if layout.kind == "tokens" else self.tokens
        return layout


def _channels(module: nn.Module) -> Literal["first", "last"] | None:
    """Where a layer of this type has its channels; None for those that take either."""
    if "2d" in type(module).__name__:  # Conv2d, BatchNorm2d, MaxPool2d, and everybody's variants of them
        return "first"
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return "last" if len(module.normalized_shape) == 1 else None
    return "last" if isinstance(module, nn.Linear) else None


def _repeated(shape: tuple[int, ...]) -> set[int]:
    """Sizes that two neighbouring axes of a 4-D output share, the batch aside."""
    return {a for a, b in pairwise(shape[1:]) if a == b} if len(shape) == 4 else set()


def probe_layers(model: nn.Module, inputs: Tensor) -> list[Layer]:
    """List every layer of ``model`` in forward order.

    Args:
        model: frozen and in eval mode; left as it was.
        inputs: two or more pictures, (N, 3, H, W), in the model's dtype.

    Returns:
        One row per call of every module but the root; modules that are never called come last.

    Raises:
        ModelOutputError: the model does not return logits (N, classes).
    """
    probe = _Probe(inputs.shape[2], inputs.shape[3], len(inputs))
    inputs = inputs.detach().requires_grad_()
    handles = [
        module.register_forward_hook(lambda module, _, output, name=name: probe.hook(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            logits = check_logits(model(inputs), len(inputs))
    finally:
        for handle in handles:
            handle.remove()
    reachable, on_every_path = _walk(logits.grad_fn)
    unread = _layers_without_patch_gradient(logits, probe.records)
    layers = [
        _row(record, order, probe, reachable, on_every_path, unread) for order, record in enumerate(probe.records)
    ]
    idle = [(name, module) for name, module in model.named_modules() if name and name not in probe.calls]
    return layers + [_idle(name, module, len(layers) + i, probe.calls) for i, (name, module) in enumerate(idle)]


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
        special, patches = gradient[:, : record.layout.prefix], gradient[:, record.layout.prefix :]
        # A head of zeros, as torchvision initialises ViT, has no gradient anywhere: that says nothing of the layer.
        if special.any() and not patches.any():
            unread.add(record.call)
    return unread


def _row(
    record: _Record,
    order: int,
    probe: _Probe,
    reachable: set[Node],
    on_every_path: set[Node],
    unread: set[LayerCall],
) -> Layer:
    refused = _refusal(record, probe, reachable, unread)
    repeated = probe.calls[record.call.module] > 1
    notes = [refused] if refused else [_BRANCH] if record.node not in on_every_path else []
    if repeated:
        notes.append(f"call {record.call.call} of {probe.calls[record.call.module]} of this module")
    layout = record.layout
    return Layer(
        name=f"{record.call.module}:{record.call.call}" if repeated else record.call.module,
        call=record.call,
        type=type(record.module).__name__,
        kind=_kind(record.module),
        shape=_grid_shape(record.shape, layout) if layout else record.shape[1:],
        layout=layout,
        stride=round(probe.height / layout.height) if layout else None,
        order=order,
        on_every_path=record.node in on_every_path,
        explainable=refused is None,
        note="; ".join(notes) or None,
    )


def _refusal(record: _Record, probe: _Probe, reachable: set[Node], unread: set[LayerCall]) -> str | None:
    """Say why no map can be made of this layer, or None where one can."""
    if not record.shape:
        return "its output is not a single tensor"
    if record.shape[0] != probe.batch:
        return "its output has not one row per picture"
    if record.layout is None:
        sizes = list(record.shape[1:])
        if len(sizes) < 2:
            return f"its output has no rows and columns: {sizes}"
        return f"its axes are not the rows and columns of the picture: {sizes}"
    if record.layout.height * record.layout.width == 1:
        return "1×1 output: no position is left to show"
    if record.node not in reachable:
        return "not on the way to the logits"
    if record.call in unread:
        return "only the class token is read behind this layer: the gradient is zero on every patch"
    return None


def _grid_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, int, int]:
    channels = shape[1] if layout.kind == "nchw" else shape[-1]
    return channels, layout.height, layout.width


def _idle(name: str, module: nn.Module, order: int, calls: Collection[str]) -> Layer:
    reason = "never called in the forward pass"
    if any(called.startswith(f"{name}.") for called in calls):
        reason = "holds layers and is not called itself"
    elif name.rpartition(".")[0] in calls and any(True for _ in module.parameters(recurse=False)):
        reason += " (the layer that holds it may use its weights)"
    return Layer(
        name,
        LayerCall(name),
        type(module).__name__,
        _kind(module),
        (),
        None,
        None,
        order,
        on_every_path=False,
        explainable=False,
        note=reason,
    )


def _kind(module: nn.Module) -> LayerKind:
    name = type(module).__name__
    if isinstance(module, nn.MultiheadAttention) or "Attention" in name:
        return "attention"
    if any(True for _ in module.children()) or isinstance(module, nn.Sequential):
        return "block"
    for kind, marks in _KINDS.items():
        if any(mark in name for mark in marks):
            return kind
    return "activation" if type(module).__module__ == "torch.nn.modules.activation" else "other"


_KINDS: dict[LayerKind, tuple[str, ...]] = {
    "conv": ("Conv",),
    "norm": ("Norm",),
    "pool": ("Pool",),
    "linear": ("Linear",),
}
