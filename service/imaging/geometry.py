"""Where a pixel of the picture lies in the model's input, and back.

Coordinates are continuous: pixel i covers [i, i + 1), its centre is at i + 0.5. "Picture" is the upright picture at
full size, whatever the scale it was decoded at; "model" is the model's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Box", "Geometry", "Point"]

_Value = TypeVar("_Value", float, NDArray[np.float64])


@dataclass(frozen=True, slots=True)
class Point:
    """A place in the picture, in its pixels."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle with edges in continuous pixel coordinates: ``right`` and ``bottom`` are not part of it."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.bottom - self.top


@dataclass(frozen=True, slots=True)
class Geometry:
    """What preprocessing did to the picture: an affine map per axis.

    ``model_x = picture_x * scale_x - left`` and ``model_y = picture_y * scale_y - top``. A positive ``left`` is what a
    crop cut off, a negative one is padding, both in model pixels.

    Example:
        >>> Geometry(640, 480, 224, 224, 341 / 640, 256 / 480, 58, 16).view.top
        30.0
    """

    image_width: int
    image_height: int
    model_width: int
    model_height: int
    scale_x: float
    scale_y: float
    left: float
    top: float

    def to_model(self, x: _Value, y: _Value) -> tuple[_Value, _Value]:
        """Map picture coordinates, numbers or arrays, to the model's."""
        return x * self.scale_x - self.left, y * self.scale_y - self.top

    def to_image(self, x: _Value, y: _Value) -> tuple[_Value, _Value]:
        """Map model coordinates, numbers or arrays, to the picture's; the result may lie outside the picture."""
        return (x + self.left) / self.scale_x, (y + self.top) / self.scale_y

    @property
    def view(self) -> Box:
        """The part of the picture that the model saw, in picture pixels."""
        left, top = self.to_image(0.0, 0.0)
        right, bottom = self.to_image(float(self.model_width), float(self.model_height))
        width, height = float(self.image_width), float(self.image_height)
        return Box(max(0.0, left), max(0.0, top), min(width, right), min(height, bottom))
