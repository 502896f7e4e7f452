"""The scores of a picture's maps: how far they lie where somebody looked, and whether they are stable.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from service.imaging.comparison import PlacedMap, correlation, mass_inside
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.cam.raw_map import RawMap
    from service.engine.answers import Scores
    from service.engine.drawing import Drawing
    from service.engine.plan import Plan
    from service.imaging.geometry import Geometry

    Maps = Sequence[RawMap[NDArray[np.float32]]]

__all__ = ["score_maps"]


def score_maps(
    todo: Plan, drawing: Drawing, geometry: Geometry, certainty: Scores, maps: Maps, mirrored: Maps
) -> list[Scores]:
    """Score the maps of a picture, in their order.

    Args:
        todo: what was asked for.
        drawing: knows where their cells look.
        geometry: as returned by ``preprocess`` for the picture.
        certainty: entropy and margin of its prediction.
        maps: all of its maps.
        mirrored: those of its mirror image, for the same classes and in the same order.
    """
    signed, width = todo.lane.cam_options.signed, todo.info.preprocess.width
    placed = [_placed(drawing, raw, geometry, signed=signed) for raw in maps]
    turned = [_turned_back(_placed(drawing, raw, geometry, signed=signed), width) for raw in mirrored]
    return [
        replace(
            certainty,
            mass_inside=None if todo.area is None else mass_inside(here, geometry, todo.area),
            flip_stability=correlation(here, there),
            layer_agreement=_agreement(index, maps, placed),
        )
        for index, (here, there) in enumerate(zip(placed, turned, strict=True))
    ]


def _placed(drawing: Drawing, raw: RawMap[NDArray[np.float32]], geometry: Geometry, *, signed: bool) -> PlacedMap:
    """Return a map as it is drawn: unless it is signed, what speaks against the class counts for nothing."""
    height, width = raw.values.shape
    stretched = Placement.stretched(height, width, geometry.model_height, geometry.model_width)
    values = raw.values if signed else np.maximum(raw.values, 0)
    return PlacedMap(values, drawing.placement(raw) or stretched)


def _turned_back(mirrored: PlacedMap, input_width: int) -> PlacedMap:
    columns = mirrored.values.shape[1]
    return PlacedMap(mirrored.values[:, ::-1], mirrored.placement.turned_back(columns, input_width))


def _agreement(index: int, maps: Maps, placed: Sequence[PlacedMap]) -> float | None:
    """Compare a map with those of other layers, by the same method and for the same class; None if there are none."""
    this = maps[index]
    # A class may be asked for twice: of each layer, its first map counts.
    others: dict[str, float | None] = {}
    for raw, there in zip(maps, placed, strict=True):
        if raw.layer != this.layer and (raw.method, raw.target) == (this.method, this.target):
            others.setdefault(raw.layer, correlation(placed[index], there))
    known = [r for r in others.values() if r is not None]
    return sum(known) / len(known) if known else None
