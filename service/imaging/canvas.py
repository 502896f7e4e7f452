"""What the overlays of a picture are laid on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from service.imaging.grid import grid_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.decode import DecodedImage
    from service.imaging.geometry import Geometry
    from service.imaging.grid import Grid
    from service.vocabulary import Size

__all__ = ["KEPT_PIXELS", "Canvas"]

KEPT_PIXELS = 2**20
"""A canvas that waits for its maps is kept if it has no more: a square of the usual ``max_side``."""


class Canvas:
    """What the overlays of one picture are laid on, made once for all of its maps.

    It keeps what drawing takes from the picture: at its own size or the model's that is the drawn base alone, on the
    layers' grids, which differ from map to map, the picture itself.

    Args:
        image: the picture, upright.
        geometry: as returned by ``preprocess`` for that picture.
        size: the grid of what is drawn.
        max_side: longest side in pixels at size "picture".

    Attributes:
        pixels: how many it keeps.
    """

    def __init__(self, image: DecodedImage, geometry: Geometry, size: Size, max_side: int) -> None:
        self._geometry, self._size, self._max_side = geometry, size, max_side
        self._image = image if size == "layer" else None
        self._bases: dict[tuple[int, int] | None, NDArray[np.uint8]] = {}
        if self._image is None:
            self._bases[None] = _base(image, geometry, size, (1, 1), max_side)
        self.pixels = image.rgb.width * image.rgb.height if self._image else self._bases[None][..., 0].size

    def under(self, cells: tuple[int, int]) -> NDArray[np.uint8]:
        """Return what overlays of maps of the shape ``cells``, (h, w), are laid on: (height, width, 3)."""
        grid = None if self._image is None else cells
        if grid not in self._bases:
            assert self._image is not None
            self._bases[grid] = _base(self._image, self._geometry, self._size, cells, self._max_side)
        return self._bases[grid]


def _base(
    image: DecodedImage, geometry: Geometry, size: Size, cells: tuple[int, int], max_side: int
) -> NDArray[np.uint8]:
    """Return the whole picture at size "picture", otherwise, on black, what the model saw of it: (height, width, 3)."""
    grid = grid_for(size, geometry, cells, max_side)
    height, width = grid.shape
    if size == "picture":
        return np.asarray(image.rgb.resize((width, height), Image.Resampling.BILINEAR, image.box))
    canvas = np.zeros((height, width, 3), np.uint8)
    shown = (grid.x.last - grid.x.first, grid.y.last - grid.y.first)
    view = image.rgb.resize(shown, Image.Resampling.BILINEAR, _source(image, geometry, grid))
    canvas[grid.seen] = np.asarray(view)
    return canvas


def _source(image: DecodedImage, geometry: Geometry, grid: Grid) -> tuple[float, float, float, float]:
    """Return what the seen pixels of the grid show, as a box in pixels of ``image.rgb``."""
    x0, y0, x1, y1 = image.box
    scale_x, scale_y = (x1 - x0) / image.width, (y1 - y0) / image.height
    left, top = geometry.to_image(grid.x.edge(grid.x.first), grid.y.edge(grid.y.first))
    right, bottom = geometry.to_image(grid.x.edge(grid.x.last), grid.y.edge(grid.y.last))
    return (
        max(x0, x0 + left * scale_x),
        max(y0, y0 + top * scale_y),
        min(x1, x0 + right * scale_x),
        min(y1, y0 + bottom * scale_y),
    )
