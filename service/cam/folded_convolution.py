"""One convolution that computes what comes next as well, while a pass runs in the network's own modules.

Next may be a batch normalisation, which multiplies and adds constants per channel, so the convolution can have them in
its weights (Jacob et al., https://arxiv.org/abs/1712.05877, section 3.2), then an activation, or the addition of a skip
connection and an activation. In place of a tensor the convolution gives out an object that what comes next can
open, once; whatever else the network's code does with it raises.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_map_only

from service.cam.packed import Activation, PackedConvolution, are_finite
from service.cam.packed_gradient import PackedGradient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

__all__ = ["FoldedConvolution", "Pending", "Strayed", "Withheld"]


class Strayed(BaseException):
    """A network's code uses the output of a folded convolution in another way than at load.

    No ``Exception``: what the code does about those is not meant for this one.
    """


class FoldedConvolution:
    """A convolution and, if there is one, the normalisation behind it.

    Attributes:
        convolution: the module as it is.
        normalisation: likewise, or None.
        waits: whether its output waits for the activation or the addition that comes next to be computed in one.
        sum_waits: whether that sum waits for the activation that comes next.
        uses: while it is found out what comes next, what did; None afterwards.
        in_pass: stands for the pass that it is part of; None while none runs.
    """

    def __init__(self, convolution: nn.Conv2d, normalisation: nn.BatchNorm2d | None, *, packs: bool) -> None:
        """Make the weights and the bias that do both; they are packed if that can be and ``packs``.

        Packed convolutions give out channels last, as PyTorch's do only where their input or their weights lie so.
        """
        self.convolution, self.normalisation = convolution, normalisation
        self.waits = self.sum_waits = False
        self.uses: Counter[str] | None = None
        self.in_pass: object | None = None
        self._made = WeakSet[Pending]()
        weight, self._bias, self._scale = _both(convolution, normalisation)
        packs = packs and PackedConvolution.can_pack(convolution)
        self._packed = PackedConvolution(convolution, weight, self._bias) if packs else None
        self._gradient = PackedGradient(convolution) if packs else None
        self._dense = None if packs else weight
        self._as_of = _state_of(convolution.weight)

    @property
    def gains(self) -> bool:
        """Whether it computes anything sooner than the modules as they are."""
        return self._packed is not None or self.normalisation is not None

    @property
    def has_other_weights(self) -> bool:
        """Whether the convolution's own weights are no longer those that it was made of."""
        return _state_of(self.convolution.weight) != self._as_of

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps beside the modules' own weights."""
        if self._packed is not None:
            own = self.convolution.weight.nbytes  # as gradients will have them
            return self._packed.nbytes + own + (0 if self._scale is None else self._scale.nbytes)
        return sum(each.nbytes for each in (self._dense, self._bias) if each is not None)

    @property
    def tensors(self) -> Iterator[Tensor]:
        """What it computes with."""
        packed = () if self._packed is None else self._packed.tensors
        yield from (each for each in (self._dense, self._bias, self._scale, *packed) if each is not None)

    # -- in place of the modules' forward -----------------------------------------------------------------------------

    def convolve(self, input: object) -> object:  # named as PyTorch does
        """Compute, or begin, what comes next, in place of ``convolution.forward``."""
        output = self._convolve(input.computed_for("other") if isinstance(input, Pending) else input)
        return output if self.normalisation is None else Withheld(self, output)

    def _convolve(self, input: Any) -> Tensor | Pending:  # likewise
        if self.has_other_weights:
            raise Strayed
        if self._packed is None or not self._packed.takes(input):
            _refuse_checkpoints()
            output: Tensor = self.convolution._conv_forward(input, self._as_modules_have_it(), self._bias)
            return output
        if input.requires_grad:
            _refuse_checkpoints()
            made: Tensor = _Convolved.apply(input, self)  # type: ignore[no-untyped-call]
            return made
        return Pending(self, self._packed, input) if self.waits else self._packed.convolve(input)

    def _as_modules_have_it(self) -> Tensor:
        """Return weights (K, C, h, w) that are not packed."""
        if self._dense is not None:
            return self._dense
        own = self.convolution.weight
        return own if self._scale is None else (own * self._scale[..., None]).to(own.dtype)

    def compute(self, input: Tensor) -> Tensor:  # likewise
        """Return the convolution, normalised, by packed weights (N, K, h, w), without a graph."""
        assert self._packed is not None, "they are asked first"
        return self._packed.convolve(input)

    def differentiate(self, gradients: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient at the input, of ``shape`` (N, C, H, W), from that at the output.

        Raises:
            RuntimeError: the weights are no longer those of the forward pass, in PyTorch's own words.
        """
        assert self._gradient is not None, "see compute"
        if self.has_other_weights:
            raise RuntimeError("weights of a convolution have been modified by an inplace operation")
        return self._gradient.at_input(gradients, shape, self._as_modules_have_it)

    def normalise(self, input: object) -> object:  # likewise
        """Give out what is normalised already, in place of ``normalisation.forward``."""
        if not isinstance(input, Withheld):
            raise Strayed
        return input.opened(self)

    def normalises_with(self, statistics: Sequence[object], options: Mapping[str, object]) -> bool:
        """Whether that is what ``torch.nn.functional.batch_norm`` hands on of what the normalisation calls it with."""
        own = self.normalisation
        assert own is not None, "nothing is withheld otherwise"
        given = *statistics, options.get("weight"), options.get("bias")
        kept = own.running_mean, own.running_var, own.weight, own.bias
        same = len(given) == len(kept) and all(one is other for one, other in zip(given, kept, strict=True))
        return same and not options.get("training") and options.get("eps") == own.eps

    # -- what comes next ----------------------------------------------------------------------------------------------

    def find_out(self) -> None:
        """Let the outputs of the next pass wait for whatever comes, and note what did."""
        self.uses = Counter()
        self.waits = self.sum_waits = self._packed is not None

    def found_out(self) -> None:
        """Wait from now on only where it was an activation or an addition each time, and nobody keeps the output."""
        uses, self.uses = self.uses or Counter(), None
        fused = uses["activation"] + uses["addition"]
        self.waits = 0 < fused == uses["output"] and not uses["other"] and not self._made
        self.sum_waits = self.waits and 0 < uses["sum activation"] == uses["sum"] and not uses["sum other"]

    def never_wait(self) -> None:
        """Compute every output at once."""
        self.waits, self.sum_waits, self.uses = False, False, None

    def made(self, pending: Pending) -> None:
        """Note an output, if it is to be found out what comes of it."""
        if self.uses is not None:
            self._made.add(pending)

    def note(self, use: str) -> None:
        """Note what an output was used for, if that is to be found out."""
        if self.uses is not None:
            self.uses[use] += 1


def _state_of(weight: Tensor) -> tuple[int, int] | None:
    """Return what is another thing once other weights are put in its place; None where nothing tells."""
    return None if weight.is_inference() else (weight.data_ptr(), weight._version)


def _refuse_checkpoints() -> None:
    """Raise where modules are called once more when the pass is over, and not folded any more."""
    checkpoint: object = torch._C._autograd._top_saved_tensors_default_hooks(True)
    if checkpoint is not None:
        raise Strayed


class _Convolved(torch.autograd.Function):
    """A convolution and its normalisation, and the gradient of both, by packed weights.

    ``separable_head`` looks for it in the graph, by its name.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, fold: FoldedConvolution) -> Tensor:  # what PyTorch calls
        """Return (N, K, h, w)."""
        ctx.shape, ctx.fold = input.shape, fold
        return fold.compute(input)

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None]:  # likewise
        """Return those of the input, (N, C, H, W)."""
        return ctx.fold.differentiate(gradients, ctx.shape), None


def _both(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return weights and bias that convolve and normalise, and the factors of the own weights (K, 1, 1).

    Computed in float64 until they are rounded.
    """
    like = convolution.weight
    own_bias = None if convolution.bias is None else convolution.bias.detach()
    if normalisation is None:
        return like.detach(), own_bias, None
    named = (like, convolution.bias, normalisation.running_mean, normalisation.running_var)
    weight, bias, mean, variance = (_in_float64(each) for each in named)
    assert weight is not None and mean is not None and variance is not None, "it is in eval mode"  # noqa: PT018
    scale, shift = _in_float64(normalisation.weight), _in_float64(normalisation.bias)
    made = fuse_conv_bn_weights(weight, bias, mean, variance, normalisation.eps, scale, shift)
    layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    factors = (1 if scale is None else scale) * (variance + normalisation.eps).rsqrt()
    return (
        made[0].detach().to(like.dtype, memory_format=layout),
        made[1].detach().to(like.dtype),
        factors.detach().float().reshape(-1, 1, 1),
    )


def _in_float64(tensor: Any) -> Tensor | None:
    return tensor.double() if isinstance(tensor, Tensor) else None


class Withheld:
    """What a folded convolution gives out: its normalisation can open it, and all else raises, as it is no tensor.

    A module that does more than normalise, as timm's ``BatchNormAct2d``, calls PyTorch's function, which asks this one.
    """

    ndim = 4  # which such a module looks at before

    def __init__(self, by: FoldedConvolution, normalised: object) -> None:
        self.by, self._normalised = by, [normalised]

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        """Open what the right normalisation is called with."""
        withheld = args[0] if function is functional.batch_norm else None
        if not isinstance(withheld, Withheld) or not withheld.by.normalises_with(args[1:], kwargs or {}):
            raise Strayed
        return withheld.opened(withheld.by)

    def opened(self, by: FoldedConvolution) -> object:
        """Give the normalised output away, once, to whom it is meant for."""
        if by is not self.by or not self._normalised:
            raise Strayed
        return self._normalised.pop()


_ADDITIONS: Collection[object] = {torch.add, Tensor.add}


class Pending:
    """An output that is computed when it is known what comes next: an activation, or an addition and an activation.

    While its pass runs it can be used once, and only as long as what it is computed from is as it was; every other use
    raises ``Strayed``.
    """

    __slots__ = ("__weakref__", "_is_used", "_packed", "_pass", "_read", "_stage", "_versions", "by")

    def __init__(
        self, by: FoldedConvolution, packed: PackedConvolution, input: Tensor, other: Tensor | None = None
    ) -> None:
        self.by, self._packed, self._pass = by, packed, by.in_pass
        self._read = (input,) if other is None else (input, other)
        self._versions = [each._version for each in self._read]
        self._stage = "" if other is None else "sum "
        self._is_used = False
        by.made(self)
        by.note("output" if other is None else "sum")

    def computed_for(self, use: str, activation: Activation | None = None) -> Tensor:
        """Return it, or its activation, as a tensor, (N, K, h, w)."""
        self._spend(use)
        if len(self._read) == 1:
            return self._packed.convolve(*self._read, activation)
        return self._packed.convolve_and_add(*self._read, activation)

    def _spend(self, use: str) -> None:
        is_stale = self._versions != [each._version for each in self._read]
        is_over = self._pass is not self.by.in_pass
        if self.by.uses is None and not is_over and (self._is_used or is_stale):
            raise Strayed
        if is_over and is_stale:
            raise RuntimeError("what a convolution has read was written into before its output was used")
        self._is_used = True
        self.by.note(self._stage + ("other" if is_stale else use))

    def _added_to(self, other: object) -> object:
        """Return the sum, which may wait for its activation."""
        given = other.computed_for("other") if isinstance(other, Pending) else other
        if self._stage or not self._packed.adds(self._read[0], given):
            return self.computed_for("other") + given  # type: ignore[operator]  # PyTorch says what it cannot add
        assert isinstance(given, Tensor), "see PackedConvolution.adds"
        self._spend("addition")
        if self.by.sum_waits:
            return Pending(self.by, self._packed, self._read[0], given)
        return self._packed.convolve_and_add(self._read[0], given)

    def _activated(self, activation: Activation) -> Tensor | None:
        """Return its activation; None where that is another pass, or has to be PyTorch's own."""
        follows = not self._stage or PackedConvolution.can_follow_addition(activation)
        if not follows or not are_finite(self._read):
            return None
        return self.computed_for("activation", activation)

    def __add__(self, other: object) -> object:
        return self._added_to(other)

    __radd__ = __iadd__ = __add__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(Tensor, name):
            raise AttributeError(name)
        return getattr(self.computed_for("other"), name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: object,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Compute what PyTorch's functions are to compute of it: an activation, an addition, or whatever else."""
        options = kwargs or {}
        if function in _ADDITIONS and len(args) == 2 and not options:
            own, other = args if isinstance(args[0], Pending) else reversed(args)
            return own._added_to(other)
        activation = Activation.of(function, options) if len(args) == 1 else None
        if activation is not None and isinstance(args[0], Pending):
            found = args[0]._activated(activation)
            if found is not None:
                return found
        return function(*_computed_in(args), **_computed_in(options))


def _by_tensors(name: str) -> Callable[..., Any]:
    def compute(self: Pending, *others: Any) -> Any:
        return getattr(self.computed_for("other"), name)(*_computed_in(others))

    return compute


# All that Python looks for in an object's class alone.
_OPERATORS = """
abs and array bool complex contains eq float floordiv format ge getitem gt iand ifloordiv imod imul index int invert
ior ipow isub iter itruediv ixor le len lt matmul mod mul ne neg or pos pow rdiv rfloordiv rmatmul rmod rmul rpow rsub
rtruediv setitem sub truediv xor
"""
for _name in _OPERATORS.split():
    setattr(Pending, f"__{_name}__", _by_tensors(f"__{_name}__"))


def _computed_in(parts: Any) -> Any:
    return tree_map_only(Pending, lambda pending: pending.computed_for("other"), parts)
