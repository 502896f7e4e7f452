"""What a map can be said to show, in words and numbers, so that no drawing claims more than there is.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.cam.methods import METHODS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.cam.layers import Layer
    from service.vocabulary import EmptyReason

__all__ = ["MapSummary", "caveat", "summarise"]

# Rounding in float32 moves a constant map's cells by no more than this share of their value.
_CONSTANT = 1e-5
_LITTLE = 0.01


@dataclass(frozen=True)
class MapSummary:
    """A raw map in numbers; ``reason`` says why it shows nothing, or is None where it shows something."""

    minimum: float
    maximum: float
    sum: float
    reason: EmptyReason | None


def summarise(raw: NDArray[Any], *, signed: bool, zero_gradient: bool) -> MapSummary:
    """Sum up a raw map (h, w).

    Args:
        raw: the map.
        signed: whether values below zero count as something.
        zero_gradient: whether the gradient is zero all over the layer.
    """
    low, high = float(raw.min()), float(raw.max())
    return MapSummary(
        low, high, float(raw.sum(dtype="float64")), _reason(low, high, signed=signed, zero_gradient=zero_gradient)
    )


def _reason(low: float, high: float, *, signed: bool, zero_gradient: bool) -> EmptyReason | None:
    if not (high > 0 or (signed and low < 0)):
        return "zero_gradient" if zero_gradient else "no_positive_evidence"
    if high - low <= _CONSTANT * max(abs(low), abs(high)):
        return "constant"
    return None


def caveat(method: str, label: str, probability: float, layer: Layer | None = None) -> str | None:
    """Say what to keep in mind with a map of ``method`` for a class at ``layer``, or None."""
    row = METHODS[method]
    notes = []
    if row.uses_layer and layer is not None and layer.covers is not None:
        notes.append(f"Layer {layer.name!r} {layer.covers}.")
    if not row.uses_layer:
        notes.append(f"{row.title} looks at the whole network; the layer plays no part.")
    if not row.class_specific:
        notes.append(f"{row.title} knows no classes; the map is the same for all.")
    elif 0 <= probability < _LITTLE:
        notes.append(f"The model gives {label!r} {probability:.2%} only; the map shows what little speaks for it.")
    return " ".join(notes) or None
