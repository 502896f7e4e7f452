"""A head whose last convolution has a channel for every class: what many targets of one picture share.

In such a head (Lin et al., https://arxiv.org/abs/1312.4400; SqueezeNet has one) a logit is the pooled activation of its
own channel and of no other. One backward pass to the convolution therefore finds the gradients of all logits at once,
and what lies before it sees of each score only the few channels of its classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.autograd.graph import GradientEdge
from torch.nn.grad import conv2d_input

from service.cam.derivatives import differentiate, differentiate_before

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor
    from torch.autograd.graph import Node

__all__ = ["SeparableHead"]

# What keeps the channels apart, by the names of autograd's nodes.
_POOLS = {
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveMaxPool2DBackward0",
    "AvgPool2DBackward0",
    "MaxPool2DWithIndicesBackward0",
    "MeanBackward1",
}
_APART = {
    "CloneBackward0",
    "HardswishBackward0",
    "HardtanhBackward0",
    "LeakyReluBackward0",
    "ReluBackward0",
    "SiluBackward0",
    "ToCopyBackward0",
}
# What only changes the shape does so, too, where each channel is one number; pooled after that, channels may meet.
_SHAPES = {
    "AsStridedBackward1",
    "ReshapeAliasBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "UnsafeViewBackward0",
    "ViewBackward0",
}
_SPATIAL = {2, 3}

_FOLDED = "_ConvolvedBackward"  # see folded_convolution
_CONVOLUTIONS = {"ConvolutionBackward0", _FOLDED}


@dataclass(frozen=True)
class _Convolution:
    """What a node of a graph knows of the convolution that made it: PyTorch's own, or a folded one."""

    shape: torch.Size
    weight: Tensor
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool

    @classmethod
    def of(cls, node: Any) -> _Convolution | None:
        """Read a node; None of one that normalises, too, or whose input or weights were written into since."""
        if node.name() == _FOLDED:
            own = node.fold.convolution
            places = own.stride, own.padding, own.dilation, own.groups
            is_plain = node.fold.normalisation is None and not node.fold.has_other_weights
            return cls(node.shape, own.weight, *places, transposed=False) if is_plain else None
        stride, padding, dilation = map(tuple, (node._saved_stride, node._saved_padding, node._saved_dilation))
        try:
            read, weight = node._saved_input, node._saved_weight
        except RuntimeError:  # nothing can be differentiated here, which others put in words
            return None
        return cls(read.shape, weight, stride, padding, dilation, node._saved_groups, node._saved_transposed)

    def before(self, gradients: Tensor, classes: Tensor) -> Tensor:
        """Return the gradient at the input, from that of some of its channels."""
        weight = self.weight[classes]
        as_product = weight.shape[2:] == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)
        if as_product:  # the commonest, and less to do
            return (weight[:, :, 0, 0].t() @ gradients.flatten(2)).reshape(self.shape)
        found: Any = conv2d_input(self.shape, weight, gradients, self.stride, self.padding, self.dilation)  # type: ignore[no-untyped-call]
        return cast("Tensor", found)


@dataclass(frozen=True)
class SeparableHead:
    """The convolution, and the edge of the graph at its input.

    ``gradients`` (N, classes, h, w) has that of every logit in its own channel.
    """

    convolution: _Convolution
    edge: GradientEdge
    gradients: Tensor

    @classmethod
    def of(cls, logits: Tensor, activations: Collection[Tensor]) -> SeparableHead | None:
        """Find the head in the graph of ``logits`` (N, classes).

        Args:
            logits: of one pass.
            activations: where gradients are asked for.

        Returns:
            None where the head is another one, or an activation lies within it.
        """
        kept = [each.grad_fn for each in activations if each.grad_fn is not None]
        node = _last_convolution(logits.grad_fn, logits.numel(), kept)
        found = None if node is None else _Convolution.of(node)
        if found is None or not _has_a_channel_for_each(node, found, logits.shape[1]):
            return None
        (gradients,) = differentiate(logits, [GradientEdge(node, 0)], torch.ones_like(logits, requires_grad=False))
        return None if gradients is None else cls(found, GradientEdge(*node.next_functions[0]), gradients)

    def differentiate(self, activations: Sequence[Tensor], logit_weights: Tensor) -> tuple[Tensor | None, ...]:
        """Do what :func:`service.cam.derivatives.differentiate` does for the logits of this head."""
        classes = logit_weights.any(0).nonzero().flatten()
        if not len(classes):
            return (None,) * len(activations)
        weights = logit_weights[:, classes].to(self.gradients)
        with torch.inference_mode(mode=False), torch.no_grad():
            found = self.gradients[:, classes] * weights[..., None, None]  # (N, k, h, w)
            at_input = self.convolution.before(found, classes)
        return differentiate_before(self.edge, at_input, activations)


def _last_convolution(node: Node | None, size: int, kept: Collection[Node]) -> Any:
    """Go up from the logits, ``size`` in number, to the first convolution; None where channels meet before."""
    pooled = False
    while node is not None and node.name() not in _CONVOLUTIONS:
        before = [function for function, _ in node.next_functions if function is not None]
        reshaped_to_pool = pooled and node.name() in _SHAPES
        if node in kept or len(before) != 1 or reshaped_to_pool or not _keeps_channels_apart(node, size):
            return None
        pooled |= node.name() in _POOLS
        (node,) = before
    return None if node in kept else node


def _keeps_channels_apart(node: Any, size: int) -> bool:
    if node.name() == "AsStridedBackward1":  # of pooled channels that lie last: the same numbers in the same order
        return bool(math.prod(node._saved_size) == size) and _in_order(node)
    if node.name() in _SHAPES:
        return bool(math.prod(node._saved_self_sym_sizes) == size)
    if node.name() == "MeanBackward1":
        axes = len(node._saved_self_sym_sizes)
        return bool(axes == 4 and {_signed(axis) % axes for axis in node._saved_dim} == _SPATIAL)
    return node.name() in _APART | _POOLS


def _in_order(node: Any) -> bool:
    rows, channels, *_ = node._saved_size
    by_row, by_channel, *_ = node._saved_stride
    in_order = by_channel == 1 and (rows == 1 or by_row == channels)
    return bool(in_order and not node._saved_storage_offset)


def _signed(axis: int) -> int:
    """Read an axis that autograd keeps as an unsigned number of 64 bits."""
    return axis - 2**64 if axis >= 2**63 else axis


def _has_a_channel_for_each(node: Any, convolution: _Convolution, classes: int) -> bool:
    flat = convolution.weight.ndim == 4 and not convolution.transposed and convolution.groups == 1
    fixed = all(function is None for function, _ in node.next_functions[1:])  # weight and bias depend on no activation
    return bool(flat and fixed and len(convolution.weight) == classes)
