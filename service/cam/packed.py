"""Convolutions on a CPU whose weights are laid out once for its vector units, with what follows computed in them.

``functional.conv2d`` lays weights out anew in each call, and an activation or an addition behind it reads and writes
its output once more. oneDNN does all that in one pass (https://uxlfoundation.github.io/oneDNN, "Primitive attributes:
post-ops"), through operators that PyTorch's compiler uses and that have no public name. Where they are missing, nothing
is packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["SEVERAL", "Activation", "PackedConvolution", "are_finite", "lie_alike"]

_CONVOLVE = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_PACK = getattr(torch.ops.mkldnn, "_reorder_convolution_weight", None)
_LAYOUT = getattr(torch.ops.mkldnn, "_get_mkldnn_serialized_md", None)
_HAS_BFLOAT16 = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


@dataclass(frozen=True)
class Activation:
    """What is applied to each value of an output, by oneDNN's name and its parameters."""

    name: str
    scalars: tuple[float, ...] = ()
    algorithm: str = ""

    @classmethod
    def of(cls, function: Callable[..., Any], options: Mapping[str, Any]) -> Activation | None:
        """Return the activation that ``function`` computes with ``options``; None where oneDNN has none such."""
        made = _ACTIVATIONS.get(function)
        wanted = {name: value for name, value in options.items() if name != "inplace"}
        try:
            return None if made is None else made(**wanted)
        except TypeError:  # an option that is not known here
            return None


# Pictures for which weights are laid out, where there are several.
SEVERAL = 8

# Which version of itself a tensor was when it was known to be finite: an attribute of what is computed here.
_FINITE = "_finite_as_of"

_NONE, _RELU = Activation("none"), Activation("relu")

_ACTIVATIONS: dict[Any, Callable[..., Activation]] = {
    functional.relu: lambda: _RELU,
    torch.relu: lambda: _RELU,
    functional.relu6: lambda: Activation("hardtanh", (0.0, 6.0)),
    functional.hardtanh: lambda min_val=-1.0, max_val=1.0: Activation("hardtanh", (min_val, max_val)),
    functional.leaky_relu: lambda negative_slope=0.01: Activation("leaky_relu", (negative_slope,)),
    functional.silu: lambda: Activation("swish"),
    functional.hardswish: lambda: Activation("hardswish"),
    functional.hardsigmoid: lambda: Activation("hardsigmoid"),
    torch.sigmoid: lambda: Activation("sigmoid"),
    functional.gelu: lambda approximate="none": Activation("gelu", algorithm=approximate),
}


class PackedConvolution:
    """The arithmetic of a convolution, with other weights and another bias than its own.

    It computes numbers alone: no graph is recorded.
    """

    def __init__(self, convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
        """Compute as ``convolution`` does; see ``can_pack``. The weights are laid out when the first picture comes."""
        padding = convolution.padding
        assert not isinstance(padding, str), "see can_pack"
        self._places = padding, convolution.stride, convolution.dilation, convolution.groups
        self._kernel = convolution.kernel_size
        self._dense: Tensor | None = weight
        self._bias = bias
        self._weights: tuple[Tensor, ...] = ()  # for one picture, and for several
        self._dtype, self._channels = weight.dtype, len(weight)

    @staticmethod
    def can_pack(convolution: nn.Conv2d) -> bool:
        """Whether there are operators for a convolution, on its device and in its precision."""
        like = convolution.weight
        known = _CONVOLVE is not None and _PACK is not None and like.device.type == "cpu"
        if not known or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        precise = like.dtype == torch.float32 or (like.dtype == torch.bfloat16 and bool(_HAS_BFLOAT16()))
        return precise and convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights and bias."""
        weights = {self._dense} if self._dense is not None else set(self._weights)
        packed = sum(each.numel() * each.element_size() for each in weights)
        return packed + (0 if self._bias is None else self._bias.nbytes)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Its weights and its bias."""
        yield from (each for each in (self._dense, self._bias, *self._weights) if each is not None)

    def takes(self, input: object) -> TypeGuard[Tensor]:  # named as PyTorch does
        """Whether it can compute with this input: a batch of pictures of its precision.

        A tensor of inference mode tells nobody when it is written into.
        """
        return (
            type(input) is Tensor
            and input.ndim == 4
            and input.dtype == self._dtype
            and input.device.type == "cpu"
            and not input.is_inference()
            and not torch.is_autocast_enabled("cpu")
        )

    def adds(self, input: Tensor, other: object) -> bool:  # likewise
        """Whether it can add ``other`` to what it gives out for ``input``."""
        grouped = self._places[-1] != 1  # for which oneDNN's addition fails in bfloat16
        if grouped or not self.takes(other) or other.requires_grad:
            return False
        return other.shape == self._shape_for(input)

    def _shape_for(self, input: Tensor) -> tuple[int, ...]:
        axes = zip(input.shape[2:], self._kernel, *self._places[:3], strict=True)
        sizes = [(size + 2 * pad - wide * (kernel - 1) - 1) // step + 1 for size, kernel, pad, step, wide in axes]
        return len(input), self._channels, *sizes

    def convolve(self, input: Tensor, activation: Activation | None = None) -> Tensor:  # likewise
        """Return ``activation`` of the convolution, (N, K, h, w), channels last; see ``are_finite``."""
        does = activation or _NONE
        computed: Tensor = _CONVOLVE(  # type: ignore[misc]  # see can_pack
            input, self._weight_for(input), self._bias, *self._places, does.name, [*does.scalars], does.algorithm
        )
        return _as_finite_as(computed, input)

    def convolve_and_add(self, input: Tensor, other: Tensor, activation: Activation | None = None) -> Tensor:
        """Return ``activation`` of the convolution and ``other``; see ``adds`` and ``can_follow_addition``."""
        name = None if activation is None else activation.name
        computed: Tensor = _CONVOLVE.binary(  # type: ignore[union-attr]  # see can_pack
            input, other, self._weight_for(input), self._bias, *self._places, "add", 1.0, name, [], ""
        )
        return _as_finite_as(computed, input, other)

    @staticmethod
    def can_follow_addition(activation: Activation) -> bool:
        """Whether oneDNN's operator has it behind an addition."""
        return activation == _RELU

    def _weight_for(self, input: Tensor) -> Tensor:
        """Return the weights as they lie best for that many pictures.

        Computing with others gives the same and lays them out anew each time, which took up to fifty times as long.
        What is best for eight pictures was so for two and more.
        """
        if self._dense is not None:
            single, several = (self._packed(self._dense, [rows, *input.shape[1:]]) for rows in (1, SEVERAL))
            self._weights, self._dense = (single, single if lie_alike(single, several) else several), None
        return self._weights[len(input) > 1]

    def _packed(self, weight: Tensor, sizes: list[int]) -> Tensor:
        packed: Tensor = _PACK(weight, *self._places, sizes)  # type: ignore[misc]  # see can_pack
        return packed


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether there is neither infinity nor what is no number in them: oneDNN's activations make numbers of both.

    What is computed here of such tensors is not looked at again: what leaves the range of float32 between
    convolutions is not noticed.
    """
    return all(_is_known_as_finite(each) or _found_finite(each) for each in tensors)


def _found_finite(tensor: Tensor) -> bool:
    finite = bool(tensor.sum().isfinite())
    if finite:
        setattr(tensor, _FINITE, tensor._version)
    return finite


def _is_known_as_finite(tensor: Tensor) -> bool:
    return getattr(tensor, _FINITE, None) == tensor._version


def _as_finite_as(computed: Tensor, *of: Tensor) -> Tensor:
    if all(_is_known_as_finite(each) for each in of):
        setattr(computed, _FINITE, computed._version)
    return computed


def lie_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are laid out in the same way."""
    return _LAYOUT is not None and torch.equal(_LAYOUT(one), _LAYOUT(other))
