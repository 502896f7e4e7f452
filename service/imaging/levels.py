"""Numbers of any width to the 256 levels of a picture: what is black, what is white, and what lies between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["Span", "span_of", "stated_span", "to_levels"]

_WHITE = 255.0


@dataclass(frozen=True, slots=True)
class Span:
    """The numbers that become black and white; what lies outside becomes the nearer of them."""

    black: float
    white: float


def stated_span(form: str, bits: int) -> Span | None:
    """Return the span of a type whose numbers fill it: whole ones of up to 16 bits, from nothing to all ones.

    None where the numbers themselves have to be looked at: signed ones, floats, and wide ones.
    """
    return Span(0.0, float(2**bits - 1)) if form == "u" and bits <= 16 else None


def span_of(form: str, bits: int, bands: Iterable[NDArray[Any]]) -> Span:
    """Return the span of a picture by its smallest and its greatest number.

    - Floats: 0–1 if all lie there, else 0–255 if all lie there.
    - Whole numbers: 0–255 if all lie there; the type's whole range where the picture reaches into its outer parts: a
      picture of 32 bits that uses the upper 8, a signed one with numbers in the lowest and in the highest quarter.
      Otherwise signed ones of 16 bits without a negative one: 0 to the greatest that they could be; wider ones without
      a negative one and none above 65535: 0–65535.
    - Everything else: from its own minimum to its own maximum.
    """
    extremes = [(band.min(), band.max()) for band in (_finite(band) for band in bands)]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    for white in _whites(form, bits, high):
        if low >= 0 and high <= white:
            return Span(0.0, white)
    if form == "i" and low < -(2.0 ** (bits - 2)) and high >= 2.0 ** (bits - 2):
        return Span(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1)
    return Span(low, high if high > low else low + 1.0)


def _whites(form: str, bits: int, high: float) -> list[float]:
    """Return what may be white in a picture without a negative number, the smallest first."""
    if form == "f":
        return [1.0, 255.0]
    greatest = 2.0 ** (bits - (form == "i")) - 1
    if bits <= 16:
        return [_WHITE, greatest] if bits > 8 else [greatest]
    return [_WHITE, 65535.0, *([greatest] if high >= 2.0 ** (bits - 8 - (form == "i")) else [])]


def to_levels(values: NDArray[Any], span: Span) -> NDArray[np.uint8]:
    """Return ``values`` as levels, rounded. NaN and infinity are taken for 0."""
    scaled = (_finite(values) - span.black) * (_WHITE / (span.white - span.black))
    levels: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, _WHITE, out=scaled), out=scaled).astype(np.uint8)
    return levels


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
