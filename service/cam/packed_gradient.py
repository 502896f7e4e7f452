"""Gradients of convolutions on a CPU, by weights that are laid out once for its vector units.

The gradient at a convolution's input is the transposed convolution of that at its output, by the same weights (Dumoulin
and Visin, https://arxiv.org/abs/1603.07285, section 4). PyTorch's backward pass lays them out anew each time; see
:mod:`service.cam.packed`.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.nn.grad import conv2d_input

from service.cam.packed import SEVERAL, lie_alike

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

__all__ = ["PackedGradient"]

_CONVOLVE = getattr(torch.ops.mkldnn, "_convolution_transpose_pointwise", None)
_PACK = getattr(torch.ops.mkldnn, "_reorder_convolution_transpose_weight", None)

# Of pictures of one size there are two at most. Sizes that leave other rows and columns over have others.
_MOST_LAYOUTS = 4
_TRIED_ROWS = 2

# How far its gradients may lie from PyTorch's, relative to the largest.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}


class PackedGradient:
    """The gradient at the input of a convolution with other weights than its own.

    Weights are laid out when the first gradient comes, for one picture and for several, and tried on random numbers:
    where they give another gradient than PyTorch's operators, those compute it from then on. Copies of a network have
    it in common, as they have its weights, and may use it from several threads.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        """Differentiate ``convolution``; see ``PackedConvolution.can_pack``."""
        own, padding = convolution, convolution.padding
        assert not isinstance(padding, str), "see PackedConvolution"
        self._places = own.stride, padding, own.dilation, own.groups
        self._kernel, self._dtype = own.kernel_size, own.weight.dtype
        self._laid_out: dict[tuple[bool, tuple[int, ...]], Tensor | None] = {}
        self._lock = Lock()

    def __deepcopy__(self, memo: object) -> PackedGradient:
        return self

    def at_input(self, gradients: Tensor, shape: torch.Size, weight: Callable[[], Tensor]) -> Tensor:
        """Return the gradient at the input, (N, C, H, W).

        Args:
            gradients: at the output, (N, K, h, w).
            shape: of the input.
            weight: makes the weights (K, C / groups, kernel height, kernel width), where they are needed.
        """
        # Written for numbers alone, it cannot be differentiated once more.
        if gradients.dtype == self._dtype and not (torch.is_grad_enabled() and gradients.requires_grad):
            left_over = self._left_over(gradients, shape)
            packed = self._weight_for(gradients, left_over, shape, weight)
            if packed is not None:
                return self._convolve(gradients, packed, left_over)
        return self._by_pytorch(gradients, shape, weight())

    def _left_over(self, gradients: Tensor, shape: torch.Size) -> tuple[int, ...]:
        """Return how many rows and columns at the end of the input no output reaches."""
        axes = zip(shape[2:], gradients.shape[2:], self._kernel, *self._places[:3], strict=True)
        return tuple(
            size - ((outputs - 1) * step - 2 * pad + wide * (kernel - 1) + 1)
            for size, outputs, kernel, step, pad, wide in axes
        )

    def _weight_for(
        self, gradients: Tensor, left_over: tuple[int, ...], shape: torch.Size, weight: Callable[[], Tensor]
    ) -> Tensor | None:
        if _CONVOLVE is None or _PACK is None:
            return None
        kind = len(gradients) > 1, left_over
        with self._lock:
            if kind not in self._laid_out and len(self._laid_out) < _MOST_LAYOUTS:
                rows = slice(_TRIED_ROWS)
                tried = torch.Size((len(gradients[rows]), *shape[1:]))
                self._laid_out[kind] = self._tried(gradients[rows], left_over, tried, weight())
            return self._laid_out.get(kind)

    def _tried(self, like: Tensor, left_over: tuple[int, ...], shape: torch.Size, weight: Tensor) -> Tensor | None:
        """Lay weights out for gradients like these; None where they do not give the same as PyTorch's operators."""
        some = torch.randn(like.shape, generator=torch.Generator().manual_seed(0)).to(self._dtype)
        wanted = self._by_pytorch(some, shape, weight)
        try:
            packed = self._packed(like, left_over, weight)
            apart = (self._convolve(some, packed, left_over) - wanted).abs().max()
        except RuntimeError:  # what the operators do not take, they say only then
            return None
        return packed if apart <= _TOLERANCE[self._dtype] * wanted.abs().max() else None

    def _packed(self, like: Tensor, left_over: tuple[int, ...], weight: Tensor) -> Tensor:
        stride, padding, dilation, groups = self._places
        sizes = [SEVERAL if len(like) > 1 else 1, *like.shape[1:]]
        packed: Tensor = _PACK(weight, padding, left_over, stride, dilation, groups, sizes)  # type: ignore[misc]
        other = self._laid_out.get((len(like) == 1, left_over))
        return other if other is not None and lie_alike(packed, other) else packed

    def _convolve(self, gradients: Tensor, packed: Tensor, left_over: tuple[int, ...]) -> Tensor:
        stride, padding, dilation, groups = self._places
        computed: Tensor = _CONVOLVE(  # type: ignore[misc]  # see _weight_for
            gradients, packed, None, padding, left_over, stride, dilation, groups, "none", [], ""
        )
        return computed

    def _by_pytorch(self, gradients: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
        found: Any = conv2d_input(shape, weight, gradients, *self._places)  # type: ignore[no-untyped-call]
        return cast("Tensor", found)
