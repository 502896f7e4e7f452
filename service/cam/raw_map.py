"""A raw map: what one method finds at one layer for one class. Needs no torch to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["RawMap"]

Values = TypeVar("Values")


@dataclass(frozen=True)
class RawMap(Generic[Values]):
    """One map of one image, before it is scaled or drawn.

    Attributes:
        layer: the name that it has in the answer; fused layers are joined by ``+``.
        method: its name in ``METHODS``.
        target: index of the class.
        values: (h, w) float32; a tensor where it was computed, a NumPy array where it is drawn.
        zero_gradient: whether the gradient of the score is zero all over the layer, in every view and in every fused
            layer; False for methods that take no gradient.
    """

    layer: str
    method: str
    target: int
    values: Values
    zero_gradient: bool
