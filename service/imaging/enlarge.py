"""A map's own values on a finer grid: what ``render`` draws, as numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from service.imaging.grid import grid_for
from service.imaging.sampling import resample
from service.placement import Placement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.geometry import Geometry
    from service.vocabulary import Size

__all__ = ["enlarge", "enlarged_shape"]


def enlarged_shape(size: Size, geometry: Geometry, cells: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Return the (height, width) of a map of ``cells`` on the grid that ``size`` names."""
    return grid_for(size, geometry, cells, max_side).shape


def enlarge(
    saliency: NDArray[np.float32], geometry: Geometry, size: Size, max_side: int, placement: Placement | None = None
) -> NDArray[np.float32]:
    """Return a map's values at the pixels of a grid, (height, width); 0 where the model did not see the picture.

    Args:
        saliency: the raw map, (h, w); its values are kept as they are, not normalised.
        geometry: as returned by ``preprocess`` for the picture.
        size: the grid: the picture's own, the model's input, or the layer's cells, which are returned untouched.
        max_side: longest side of the picture's grid.
        placement: where the map's cells look; evenly spread over the model's input if None.
    """
    if size == "layer":
        return saliency
    grid = grid_for(size, geometry, saliency.shape, max_side)
    height, width = saliency.shape
    placement = placement or Placement.stretched(height, width, geometry.model_height, geometry.model_width)
    values: NDArray[Any] = np.zeros(grid.shape, np.float32)
    columns, rows = placement.x.to_cells(grid.x.centres()), placement.y.to_cells(grid.y.centres())
    values[grid.seen] = resample(saliency.astype(np.float64), columns, rows)
    return values
