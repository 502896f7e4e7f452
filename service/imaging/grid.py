"""The pixels of a rendered picture: how many, which of them the model saw, and where they lie in the map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.imaging.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.geometry import Geometry
    from service.vocabulary import Size

__all__ = ["Axis", "Grid", "grid_for"]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a rendered picture.

    Attributes:
        size: pixels.
        first: the first pixel whose centre the model saw.
        last: one after the last of them; always beyond ``first``.
        start: where pixel 0 begins, in model pixels.
        step: model pixels per pixel.
    """

    size: int
    first: int
    last: int
    start: float
    step: float

    def edge(self, pixel: float) -> float:
        """Return where a pixel begins, in model pixels."""
        return self.start + pixel * self.step

    def centres(self) -> NDArray[np.float64]:
        """Return the centres of the pixels that the model saw, in model pixels."""
        pixels = np.arange(self.first, self.last, dtype=np.float64)
        return self.start + (pixels + 0.5) * self.step


@dataclass(frozen=True, slots=True)
class Grid:
    """Both axes of a rendered picture."""

    x: Axis
    y: Axis

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.y.size, self.x.size

    @property
    def seen(self) -> tuple[slice, slice]:
        """The rows and columns whose centres lie in the model's view."""
        return slice(self.y.first, self.y.last), slice(self.x.first, self.x.last)


def grid_for(size: Size, geometry: Geometry, cells: tuple[int, int], max_side: int) -> Grid:
    """Return the pixels to render.

    "picture" is the picture's own grid, reduced to ``max_side`` on its longest side; "model" the model's input; "layer"
    the map's own (h, w) ``cells``.
    """
    seen = _seen_by_model(geometry)
    model_width, model_height = geometry.model_width, geometry.model_height
    if size == "picture":
        width, height = _bounded(geometry.image_width, geometry.image_height, max_side)
        start_x, start_y = -geometry.left, -geometry.top
        step_x = geometry.image_width * geometry.scale_x / width
        step_y = geometry.image_height * geometry.scale_y / height
    else:
        height, width = cells if size == "layer" else (model_height, model_width)
        start_x = start_y = 0.0
        step_x, step_y = model_width / width, model_height / height
    return Grid(
        _axis(width, start_x, step_x, seen.left, seen.right), _axis(height, start_y, step_y, seen.top, seen.bottom)
    )


def _seen_by_model(geometry: Geometry) -> Box:
    """Return the part of the model's input that the picture fills, in model pixels."""
    view = geometry.view
    return Box(*geometry.to_model(view.left, view.top), *geometry.to_model(view.right, view.bottom))


def _bounded(width: int, height: int, max_side: int) -> tuple[int, int]:
    scale = min(1.0, max_side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _axis(size: int, start: float, step: float, low: float, high: float) -> Axis:
    first = max(0, math.ceil((low - start) / step - 0.5))
    last = min(size, math.ceil((high - start) / step - 0.5))
    if first >= last:  # the view is thinner than a pixel: show it as the pixel that holds its middle
        first = min(size - 1, max(0, math.floor(((low + high) / 2 - start) / step)))
        last = first + 1
    return Axis(size, first, last, start, step)
