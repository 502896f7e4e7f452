"""A linear layer at the end: what lies before it sees of each score only the weights of its classes.

PyTorch multiplies by the weights of all: ResNet-50's are 8 MB, which each target reads once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import GradientEdge

from service.cam.derivatives import differentiate, differentiate_before

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor
    from torch.autograd.graph import Node

__all__ = ["LinearHead"]

# Which of a node's edges leads to the layer's input, by autograd's names: with a bias, which comes first, and without.
_INPUTS = {"AddmmBackward0": 1, "MmBackward0": 0}


@dataclass(frozen=True)
class LinearHead:
    """The layer's ``weight`` (classes, features), its ``node`` in the graph, and the edge at its input."""

    weight: Tensor
    node: Node
    edge: GradientEdge
    logits: Tensor

    @classmethod
    def of(cls, logits: Tensor, activations: Collection[Tensor]) -> LinearHead | None:
        """Find the layer in the graph of ``logits`` (N, classes).

        Args:
            logits: of one pass.
            activations: where gradients are asked for.

        Returns:
            None where the logits are something else, or an activation lies behind the layer.
        """
        kept = [each.grad_fn for each in activations if each.grad_fn is not None]
        node: Any = logits.grad_fn
        while node is not None and node.name() == "CloneBackward0" and node not in kept:
            node = node.next_functions[0][0]
        if node is None or node in kept or node.name() not in _INPUTS or getattr(node, "_saved_alpha", 1) != 1:
            return None
        edges = list(node.next_functions)
        at_input = edges.pop(_INPUTS[node.name()])
        if at_input[0] is None or any(function is not None for function, _ in edges):  # weights made of the picture
            return None
        try:
            weight: Tensor = node._saved_mat2.t()
        except RuntimeError:  # written into since, which others put in words
            return None
        return cls(weight, node, GradientEdge(*at_input), logits) if len(weight) == logits.shape[1] else None

    def differentiate(self, activations: Sequence[Tensor], logit_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Do what :func:`service.cam.derivatives.differentiate` does for the logits of this head."""
        # Which is that of the logits, but for hooks of the network's own.
        (at_output,) = differentiate(self.logits, [GradientEdge(self.node, 0)], logit_weights)
        if at_output is None:
            return (None,) * len(activations)
        with torch.inference_mode(mode=False), torch.no_grad():
            classes = at_output.any(0).nonzero().flatten()
            at_input = at_output[:, classes] @ self.weight[classes]
        return differentiate_before(self.edge, at_input, activations)
