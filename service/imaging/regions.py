"""Connected areas of a map above a threshold, as boxes and polygons on the picture."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import contourpy
import numpy as np
import numpy.ma  # contourpy imports it with the first map
import shapely

from service.imaging.geometry import Box
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from service.imaging.geometry import Geometry
    from service.placement import AxisPlacement, Placement

__all__ = ["MAX_REGIONS", "Region", "regions_of"]

MAX_REGIONS = 100  # of a noisy map the strongest; a response of thousands helps nobody
_SAMPLES = 160  # along the longer side of the view, besides the map's own cell centres
_TOLERANCE = 0.0025  # of the picture's longer side: how far a simplified outline may run from the exact one
_TIGHT = 0.05  # and, for small regions, of the square root of their area
_HIGHEST = 0.999  # of the maximum: above it, areas shrink to points
_MARGIN = 1e-6  # "at least the threshold" rather than above it, for plateaus and threshold 0


@dataclass(frozen=True, slots=True)
class Region:
    """A connected area of the picture.

    Attributes:
        box: its bounds, in picture pixels.
        polygon: its outline as (x, y) in picture pixels, simplified, the first point not repeated. Holes are left out.
        score: the highest value inside, as a fraction of the map's maximum.
        area: its area without holes, as a fraction of the whole picture.
    """

    box: Box
    polygon: list[tuple[float, float]]
    score: float
    area: float


def regions_of(normalised: NDArray[Any], geometry: Geometry, placement: Placement, threshold: float) -> list[Region]:
    """Return the areas of the view where the interpolated map reaches ``threshold``, the strongest first.

    Args:
        normalised: the map, (h, w), divided by its maximum. A map without a positive value has no regions.
        geometry: where the model's input lies on the picture.
        placement: where the map's cells lie in the model's input.
        threshold: in 0–1; above 0.999 it counts as 0.999.
    """
    if not normalised.max() > 0:
        return []
    xs, ys, values = _sample(normalised, geometry, placement)
    lowest = min(threshold, _HIGHEST) - _MARGIN
    found = [_region(polygon, xs, ys, values, geometry) for polygon in _polygons(xs, ys, values, lowest)]
    found.sort(key=lambda region: (-region.score, -region.area))
    return found[:MAX_REGIONS]


def _sample(
    normalised: NDArray[Any], geometry: Geometry, placement: Placement
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]:
    """Return picture columns (n,), picture rows (m,) and the map there (m, n), edges of the view included."""
    height, width = normalised.shape
    view = geometry.view
    left, top = geometry.to_model(view.left, view.top)
    right, bottom = geometry.to_model(view.right, view.bottom)
    longest = max(view.width, view.height)
    xs = _lines(placement.x, left, right, width, view.width / longest)
    ys = _lines(placement.y, top, bottom, height, view.height / longest)
    columns, rows = geometry.to_image(placement.x.to_model(xs), placement.y.to_model(ys))
    return np.clip(columns, view.left, view.right), np.clip(rows, view.top, view.bottom), resample(normalised, xs, ys)


def _lines(axis: AxisPlacement, begin: float, end: float, cells: int, share: float) -> NDArray[np.float64]:
    """Return positions to sample from ``begin`` to ``end``, both in model pixels, in cell coordinates.

    They are evenly spread, with every cell centre besides, where the map has peaks and kinks.
    """
    low, high = sorted((axis.to_cells(begin), axis.to_cells(end)))
    even = np.linspace(low, high, max(2, round(_SAMPLES * share)))
    centres = np.arange(cells) + 0.5
    spacing = (high - low) * 1e-6  # closer lines than that would only make slivers
    inside = centres[(centres > low + spacing) & (centres < high - spacing)]
    distance = np.abs(even[:, None] - inside[None, :]).min(axis=1, initial=np.inf)
    positions = np.sort(np.concatenate([even[distance > spacing], inside]))
    return positions if axis.step > 0 else positions[::-1]


def _polygons(xs: NDArray[Any], ys: NDArray[Any], values: NDArray[Any], lowest: float) -> Iterator[Any]:
    """Yield the filled contours above ``lowest`` as polygons with holes."""
    generator = contourpy.contour_generator(xs, ys, values, name="serial", fill_type=contourpy.FillType.OuterOffset)
    outlines, offsets = cast("tuple[list[NDArray[Any]], list[NDArray[Any]]]", generator.filled(lowest, 2.0))
    for points, ends in zip(outlines, offsets, strict=True):
        inside = np.clip(points, (xs[0], ys[0]), (xs[-1], ys[-1]))  # rounding may put them just outside
        rings = [inside[start:end] for start, end in itertools.pairwise(ends)]
        polygon = shapely.Polygon(rings[0], rings[1:])
        if polygon.area > 0:
            yield polygon


def _region(polygon: Any, xs: NDArray[Any], ys: NDArray[Any], values: NDArray[Any], geometry: Geometry) -> Region:
    image_width, image_height = geometry.image_width, geometry.image_height
    tolerance = min(_TOLERANCE * max(image_width, image_height), _TIGHT * polygon.area**0.5)
    outline = shapely.Polygon(polygon.exterior).simplify(tolerance)
    if outline.is_empty or outline.geom_type != "Polygon":
        outline = polygon
    box = Box(*(float(edge) for edge in polygon.bounds))
    digits = max(2, 2 - math.floor(math.log10(min(box.width, box.height))))
    return Region(
        box=box,
        # Rounding may put two corners into one place.
        polygon=list(dict.fromkeys((round(x, digits), round(y, digits)) for x, y in outline.exterior.coords[:-1])),
        score=_score(polygon, xs, ys, values),
        area=polygon.area / (image_width * image_height),
    )


def _score(polygon: Any, xs: NDArray[Any], ys: NDArray[Any], values: NDArray[Any]) -> float:
    """Return the highest sample in the polygon."""
    left, top, right, bottom = polygon.bounds
    columns = slice(np.searchsorted(xs, left), np.searchsorted(xs, right, side="right"))
    rows = slice(np.searchsorted(ys, top), np.searchsorted(ys, bottom, side="right"))
    window = values[rows, columns]
    grid_x, grid_y = np.meshgrid(xs[columns], ys[rows])
    shapely.prepare(polygon)
    inside = shapely.intersects_xy(polygon, grid_x, grid_y)
    return min(1.0, float(window.max(where=inside, initial=0.0)))
