"""The picture without what a map calls important, as the model saw it, on the pixels that are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from service.imaging.comparison import PlacedMap
from service.imaging.encode import EncodedImage, encode_photo
from service.imaging.grid import grid_for
from service.imaging.sampling import resample
from service.placement import Placement
from service.verification.hiding import blurred, feathered, hide
from service.verification.region import View, hottest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.canvas import Canvas
    from service.imaging.geometry import Geometry
    from service.imaging.render import RenderSpec

__all__ = ["draw_hidden"]


def draw_hidden(
    saliency: NDArray[Any],
    geometry: Geometry,
    spec: RenderSpec,
    canvas: Canvas,
    placement: Placement | None = None,
) -> EncodedImage:
    """Draw a picture with that part blurred whose loss ``verify`` measures; arguments as of ``render``."""
    height, width = saliency.shape
    stretched = Placement.stretched(height, width, geometry.model_height, geometry.model_width)
    view = View.of(geometry)
    opacity = feathered(hottest(PlacedMap(saliency, placement or stretched), view))
    grid = grid_for(spec.size, geometry, (height, width), spec.max_side)
    levels = resample(opacity, grid.x.centres() - view.left, grid.y.centres() - view.top)
    drawn = canvas.under((height, width)).copy()
    drawn[grid.seen] = hide(drawn[grid.seen], blurred(drawn[grid.seen]), np.round(levels).astype(np.uint8))
    return encode_photo(drawn, spec.image_format)
