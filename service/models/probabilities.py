"""Whether what a network gives out are logits or probabilities already: found by trying it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from service.cam.explain import predict
from service.errors import ModelOutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from torch.autograd.graph import Node

    from service.cam.network import Network
    from service.models.inputs import Probe
    from service.settings import ModelConfig
    from service.vocabulary import Activation

__all__ = ["Examined", "activation_for", "doubts", "examine"]

# How far from the interval 0–1, and from a sum of 1, probabilities may be: rounding.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}
# So far beyond any picture, what a softmax or a sigmoid bounds is still in 0–1; what happened to lie there is not.
_BEYOND = (64.0, -64.0)

# What tells those of a softmax from those of sigmoids.
_SUM = "each picture's sum to 1"

# Names of operations, as autograd has them.
_BOUNDED = frozenset({"Softmax", "Sigmoid", "Hardsigmoid"})
_LINEAR = frozenset({"Addmm", "Mm", "Convolution"})
_SOFTMAX = frozenset({"Softmax", "LogSoftmax"})
_LOGARITHMS = frozenset({"LogSigmoid", "LogSoftmax"})
_SORTED = frozenset({"Sort", "Topk"})
_SCALING = frozenset({"Add", "Div", "Mul", "Neg", "Rsub", "Sub"})
_PASSED = frozenset({"Alias", "Clone", "Permute", "ReshapeAlias", "Select", "Slice", "Squeeze", "T", "ToCopy"})
_PASSED |= {"Transpose", "UnsafeView", "Unsqueeze", "View"} | _SCALING


@dataclass(frozen=True)
class Examined:
    """What was seen of a network's outputs.

    Attributes:
        outputs: how many there are per image.
        low: the lowest value for two images of noise.
        high: the highest.
        evidence: what shows that they are probabilities already, as half a sentence; None for logits.
        logarithms: whether they are logarithms of probabilities.
        scaled: what shows that they are probabilities brought to another scale, as half a sentence; None otherwise.
        squashed: whether they are those of a tanh, as it gives them.
        constant: whether they were the same for every picture tried.
    """

    outputs: int
    low: float
    high: float
    evidence: str | None
    logarithms: bool
    scaled: str | None = None
    squashed: bool = False
    constant: bool = False


@dataclass(frozen=True)
class _Last:
    """The operation that makes the outputs, as autograd calls it, and whether they are scaled or shifted behind it."""

    name: str
    scaled: bool = False


def examine(network: Network, probe: Probe) -> Examined:
    """Look at a network's outputs: two images tell of almost every network that its outputs are logits.

    Raises:
        ModelOutputError: they are not finite, or no logits at all, or a softmax of one output.
    """
    rows, last = predict(network, probe.noise), _last_operation(network, probe)
    low, high = float(rows.min()), float(rows.max())
    if rows.shape[1] == 1 and low == high in {0.0, 1.0} and last.name in _SOFTMAX:
        raise ModelOutputError(
            f"The model ends in a softmax of one output: {high:.0f} for every picture. Let it return its logit."
        )
    if last.name in _SORTED:
        raise ModelOutputError(
            "The model returns its outputs sorted, so a place among them is no class. Let it return the logits of all "
            "classes in their order."
        )
    return Examined(
        rows.shape[1],
        low,
        high,
        _evidence(network, rows, last, probe),
        logarithms=high <= 0 and last.name in _LOGARITHMS,
        scaled=_evidence_of_scale(network, rows, last, probe),
        squashed=last == _Last("Tanh"),
        constant=_is_constant(network, rows, probe),
    )


def _evidence(network: Network, rows: Tensor, last: _Last, probe: Probe) -> str | None:
    slack = _TOLERANCE[probe.dtype]
    if not _in_bounds(rows, slack) or last.name in _LINEAR or last == _Last("Tanh"):
        return None
    seen = [rows]
    for output in () if last.name in _BOUNDED else _tried(network, probe):
        if not _in_bounds(output, slack):
            return None
        seen.append(output)
    sums = torch.cat(seen).sum(1)
    if rows.shape[1] > 1 and bool(((sums - 1).abs() <= slack).all()):
        return _SUM
    return "they lie between 0 and 1 for every picture tried"


def _evidence_of_scale(network: Network, rows: Tensor, last: _Last, probe: Probe) -> str | None:
    slack = _TOLERANCE[probe.dtype]
    if bool((rows >= 0).all()) and _sum_to(rows, 100, slack):
        return "each picture's sum to 100"
    if last == _Last("LogSoftmax", scaled=True) and bool((rows >= 0).all()) and _sum_to((-rows).exp(), 1, slack):
        return "they are negative logarithms, smallest for the likeliest class"
    if last.name not in _BOUNDED or not last.scaled:
        return None
    seen = torch.cat([rows, *_tried(network, probe)])
    if not _in_bounds(seen, slack):
        return f"they are made by a {last.name.lower()}, and reach from {_number(seen.min())} to {_number(seen.max())}"
    if last.name == "Softmax" and rows.shape[1] > 1 and not _sum_to(rows, 1, slack):
        return f"they are made by a softmax, and sum to {_number(rows[0].sum())}"
    return None


def _sum_to(rows: Tensor, whole: float, slack: float) -> bool:
    """Whether each of several outputs per picture is a share of ``whole``."""
    return rows.shape[1] > 1 and bool(((rows.sum(1) - whole).abs() <= whole * slack).all())


def _number(value: Tensor) -> str:
    return f"{float(value):.3g}"


def _is_constant(network: Network, rows: Tensor, probe: Probe) -> bool:
    if not torch.equal(rows[0], rows[1]):
        return False
    return all(torch.equal(output, rows[:1].expand_as(output)) for output in _tried(network, probe))


def _in_bounds(rows: Tensor, slack: float) -> bool:
    return bool((rows >= -slack).all()) and bool((rows <= 1 + slack).all())


def _tried(network: Network, probe: Probe) -> Iterator[Tensor]:
    """Yield outputs for inputs far beyond any picture, where it can compute them, and for pictures of many kinds."""
    for factor in _BEYOND:
        try:
            yield predict(network, factor * probe.noise)
        except Exception:  # noqa: BLE001, S112  # no picture is like that, so a model may refuse or overflow
            continue
    for images in probe.pictures():
        yield predict(network, images)


def _last_operation(network: Network, probe: Probe) -> _Last:
    """Name the operation that makes the outputs; nothing where none is recorded.

    What only reshapes, or scales and shifts by constants, is passed.
    """
    inputs = probe.noise.clone().requires_grad_() * 1  # not a leaf: a model may write into its input
    try:
        node, scaled = network.observe(inputs, (), lambda *_: None).grad_fn, False
    except Exception:  # noqa: BLE001  # which is said, with its cause, when the layers are looked at
        return _Last("")
    while node is not None and (name := _name_of(node)) in _PASSED:
        operands = [operand for operand, _ in node.next_functions if operand is not None]  # constants are None
        if len(operands) > 1:
            break
        node, scaled = operands[0], scaled or name in _SCALING
    return _Last("" if node is None else _name_of(node), scaled)


def _name_of(node: Node) -> str:
    return node.name().partition("Backward")[0]


def activation_for(config: ModelConfig, seen: Examined) -> Activation:
    """Decide what makes probabilities. Of one output, the softmax with a 0 beside it is the sigmoid.

    Raises:
        ModelOutputError: it is to be found out, and the outputs are neither logits nor probabilities.
    """
    if config.activation == "auto" and seen.scaled:
        raise ModelOutputError(
            f"The model's outputs are probabilities on another scale: {seen.scaled}. Let the model return its logits, "
            "or the probabilities themselves. If these are logits, set activation=softmax or sigmoid."
        )
    if config.activation == "none" or (config.activation == "auto" and seen.evidence):
        return "none"
    if seen.outputs == 1 or config.activation == "sigmoid":
        return "sigmoid"
    return "sigmoid" if config.activation == "auto" and config.multi_label else "softmax"


def doubts(config: ModelConfig, seen: Examined, activation: Activation) -> Iterator[tuple[str, str]]:
    """Yield what is odd about outputs with this activation: a code, and a sentence that lacks its subject."""
    usual = "softmax" if seen.evidence == _SUM and not config.multi_label else "sigmoid"
    if seen.evidence and activation != "none":
        again = f"A {activation} of them is too even. Set activation=none."
        yield "probabilities", f"look like probabilities already: {seen.evidence}. {again}"
    elif seen.evidence and config.activation == "auto":
        taken = "They are taken as they are: probability and logit repeat them, and they are what is explained."
        ways = f"let the model return what comes before its {usual}. If these are logits, set activation={usual}."
        yield "probabilities", f"are probabilities already: {seen.evidence}. {taken} Maps of logits are clearer: {ways}"
    elif activation == "none" and not 0 <= seen.low <= seen.high <= 1:
        reach = f"are no probabilities: they reach from {seen.low:.3g} to {seen.high:.3g}"
        yield (
            "no_probabilities",
            f"{reach}, and activation=none takes them as they are. If they are logits, leave it out.",
        )
    if seen.squashed:
        text = "are those of a tanh, from -1 to 1: probabilities of them are never far from even."
        yield "squashed", f"{text} Let the model return what comes before its tanh."
    if seen.constant:
        yield (
            "constant",
            "are the same for every picture tried, so that there is nothing to explain. Are the weights in?",
        )
    if seen.logarithms and activation == "sigmoid":
        text = "are logarithms of probabilities, whose sigmoid is never above 0.5. Let the model return its logits."
        yield "log_probabilities", text
