"""The autograd graph of one forward pass: what the logits depend on, and by which ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from torch import Tensor
    from torch.autograd.graph import Node

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """What the logits depend on.

    Attributes:
        root: the logits' own node; None where they have no graph.
        nodes: all nodes that they depend on, with edges towards the image.
        on_every_path: those that every path from the logits to the image goes through.
    """

    root: Node | None
    nodes: networkx.DiGraph
    on_every_path: set[Node]

    @classmethod
    def of(cls, logits: Tensor, inputs: Tensor, outputs: Iterable[Node | None]) -> Graph:
        """Walk the graph of ``logits``.

        Args:
            logits: of a network that was observed.
            inputs: where the image came in.
            outputs: nodes of the layers' outputs: where the graph was begun anew behind a cut, the image comes in too.
        """
        root = logits.grad_fn
        nodes = _walk(root)
        begun = {following for node in outputs if node is not None for following in _successors(node)}
        accumulate = [node for node in nodes if node.name().endswith("AccumulateGrad")]
        leaves = [leaf for leaf in accumulate if leaf in begun or getattr(leaf, "variable", None) is inputs]
        return cls(root, nodes, set() if root is None else _dominators(root, nodes, leaves))

    def met_first(self, among: Collection[Node]) -> list[Node]:
        """Return those nodes that some path from the logits meets before any other of them."""
        met: set[Node] = set()
        waiting = [] if self.root is None else [self.root]
        while waiting:
            node = waiting.pop()
            if node not in met:
                met.add(node)
                waiting.extend([] if node in among else _successors(node))
        return [node for node in among if node in met]

    def behind(self, node: Node) -> set[Node]:
        """Return the nodes that ``node`` depends on."""
        found: set[Node] = networkx.descendants(self.nodes, node)
        return found

    def has(self, name: str) -> bool:
        """Whether the logits depend on an operation of that name."""
        return any(node.name() == name for node in self.nodes)


def _walk(root: Node | None) -> networkx.DiGraph:
    graph = networkx.DiGraph()
    if root is None:
        return graph
    graph.add_node(root)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for following in _successors(node):
            if following not in graph:
                waiting.append(following)
            graph.add_edge(node, following)
    return graph


def _dominators(root: Node, nodes: networkx.DiGraph, leaves: Collection[Node]) -> set[Node]:
    """Return the nodes that every path from ``root`` to any of ``leaves`` goes through."""
    if not leaves:
        return {root}
    image = object()
    extended = networkx.DiGraph([*nodes.edges, *((leaf, image) for leaf in leaves)])
    parents = networkx.immediate_dominators(extended, root)
    found, node = {root}, parents[image]
    while node is not root:
        found.add(node)
        node = parents[node]
    return found


def _successors(node: Node) -> list[Node]:
    # Constants among the operands stand as None.
    return [following for following, _ in node.next_functions if following is not None]
