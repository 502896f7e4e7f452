"""Maps compared: with each other, and with a part of the picture that somebody marked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from service.errors import InvalidOption
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.imaging.geometry import Geometry
    from service.placement import Placement

__all__ = ["MAX_POINTS", "MarkedArea", "PlacedMap", "correlation", "marked_area", "mass_inside"]

_SAMPLES = 256  # along the longer side of the view
MAX_POINTS = 1000
_MAX_CROSSING = 100  # points of a polygon that crosses itself: it may have as many parts as their square
_CONSTANT = 1e-6  # of the greatest magnitude: what is no more than rounding


@dataclass(frozen=True)
class PlacedMap:
    """A map (h, w), and where its cells look."""

    values: NDArray[Any]
    placement: Placement


def correlation(one: PlacedMap, other: PlacedMap) -> float | None:
    """Return Pearson's r of two maps of the same picture; None where one of them is the same everywhere.

    Both are read at the places where the finer one's cells look.
    """
    finer = one if one.values.size >= other.values.size else other
    xs = finer.placement.x.to_model(np.arange(finer.values.shape[1]) + 0.5)
    ys = finer.placement.y.to_model(np.arange(finer.values.shape[0]) + 0.5)
    return _pearson(_at(one, xs, ys), _at(other, xs, ys))


def _at(placed: PlacedMap, xs: NDArray[Any], ys: NDArray[Any]) -> NDArray[np.float64]:
    where = placed.placement
    return resample(placed.values, where.x.to_cells(xs), where.y.to_cells(ys)).astype(np.float64)


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    spreads = []
    for values in (one, other):
        spread = values - values.mean()
        if np.abs(spread).max() <= _CONSTANT * np.abs(values).max():
            return None
        spreads.append(spread / np.abs(spread).max())  # squares of float32's extremes leave float64's range
    a, b = spreads
    r = float((a * b).sum() / math.sqrt((a * a).sum() * (b * b).sum()))
    return min(1.0, max(-1.0, r))


@dataclass(frozen=True)
class MarkedArea:
    """A part of the upright picture, in its pixels: a polygon, or several."""

    shape: Any

    def covers(self, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how much of each cell between the lines ``xs`` (n + 1,) and ``ys`` (m + 1,) it covers: (m, n), 0–1."""
        left, top, right, bottom = self.shape.bounds
        if self.shape.equals(shapely.box(left, top, right, bottom)):
            return np.outer(_overlap(ys, top, bottom), _overlap(xs, left, right))
        shapely.prepare(self.shape)
        columns, rows = np.meshgrid((xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2)
        inside: NDArray[np.float64] = shapely.intersects_xy(self.shape, columns, rows).astype(np.float64)
        return inside


def _overlap(lines: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return the share of each interval between ``lines`` that lies between ``low`` and ``high``."""
    shares: NDArray[np.float64] = np.diff(np.clip(lines, low, high)) / np.diff(lines)
    return shares


def mass_inside(evidence: PlacedMap, geometry: Geometry, area: MarkedArea) -> float | None:
    """Return the share of a map's positive values that lies inside ``area``; None where nothing is positive.

    What the model did not see of the picture has no values.

    Args:
        evidence: the map.
        geometry: where the model's input lies on the picture.
        area: what is marked.
    """
    view = geometry.view
    longest = max(view.width, view.height)
    xs = np.linspace(view.left, view.right, max(2, round(_SAMPLES * view.width / longest)) + 1)
    ys = np.linspace(view.top, view.bottom, max(2, round(_SAMPLES * view.height / longest)) + 1)
    columns, rows = geometry.to_model((xs[1:] + xs[:-1]) / 2, (ys[1:] + ys[:-1]) / 2)
    positive = PlacedMap(np.maximum(evidence.values, 0), evidence.placement)
    values = _at(positive, columns, rows)
    greatest = values.max()
    if not greatest > 0:
        return None
    values /= greatest
    return float((values * area.covers(xs, ys)).sum() / values.sum())


def marked_area(region: str | Sequence[Any]) -> MarkedArea:
    """Read a box ``[left, top, right, bottom]`` or a polygon ``[[x, y], …]``, in pixels of the upright picture.

    A polygon that crosses itself is what it encloses.

    Raises:
        InvalidOption: it is neither, has no area, or crosses itself and has very many points.
    """
    shape = _enclosed(_corners(_parsed(region)))
    if not shape.area > 0:
        raise InvalidOption("'region' has no area. Send a box with left < right and top < bottom, or a polygon.")
    return MarkedArea(shape)


def _enclosed(corners: list[tuple[float, float]]) -> Any:
    """Return what a polygon encloses; ``shapely.make_valid`` would take minutes for one that often crosses itself."""
    shape = shapely.Polygon(corners)
    if shape.is_valid:
        return shape
    if len(corners) > _MAX_CROSSING:
        raise InvalidOption(
            f"'region' is a polygon of {len(corners)} points that crosses itself; such a one may have {_MAX_CROSSING}. "
            "Send its outline."
        )
    lines = shapely.unary_union(shapely.LineString([*corners, corners[0]]))
    parts = shapely.get_parts(shapely.polygonize([lines]))
    windings = _windings(shapely.get_coordinates(shapely.point_on_surface(parts)), np.array(corners))
    return shapely.coverage_union_all(parts[windings != 0])


def _windings(points: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how often a polygon (n, 2) goes round each point (m, 2): (m,); 0 in a hole that a slit leads to."""
    x, y = points[:, :1], points[:, 1:]
    (x1, y1), (x2, y2) = corners.T, np.roll(corners, -1, axis=0).T
    left = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1) > 0
    up, down = (y1 <= y) & (y < y2) & left, (y2 <= y) & (y < y1) & ~left
    windings: NDArray[np.int64] = up.sum(axis=1) - down.sum(axis=1)
    return windings


def _parsed(region: str | Sequence[Any]) -> Any:
    if not isinstance(region, str):
        return region
    try:
        return json.loads(region)
    except (ValueError, RecursionError):
        return None


def _corners(region: Any) -> list[tuple[float, float]]:
    if isinstance(region, list | tuple) and len(region) == 4 and all(_is_number(value) for value in region):
        left, top, right, bottom = region
        if left < right and top < bottom:
            return [(left, top), (right, top), (right, bottom), (left, bottom)]
    elif (
        isinstance(region, list | tuple)
        and 3 <= len(region) <= MAX_POINTS
        and all(_is_point(point) for point in region)
    ):
        return [(x, y) for x, y in region]
    raise InvalidOption(
        "'region' is none: send JSON, a box [left, top, right, bottom] with left < right and top < bottom, or a "
        f"polygon [[x, y], …] of 3 to {MAX_POINTS} points, in pixels of the upright picture."
    )


def _is_point(point: Any) -> bool:
    return isinstance(point, list | tuple) and len(point) == 2 and all(_is_number(value) for value in point)


def _is_number(value: Any) -> bool:
    """Whether it is a number that a picture may have as a coordinate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e6
