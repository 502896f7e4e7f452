"""Maps drawn on a picture, one by one.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from service.engine.answers import MapAnswer
from service.engine.cost import drawn_pixels
from service.engine.map_summary import caveat, summarise
from service.imaging.render import pixels_for, render
from service.verification.drawing import draw_hidden

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from service.cam.raw_map import RawMap
    from service.engine.answers import ClassScore
    from service.engine.plan import Plan
    from service.imaging.canvas import Canvas
    from service.imaging.geometry import Geometry
    from service.imaging.render import RenderSpec
    from service.placement import Placement

__all__ = ["Drawing"]


class Drawing:
    """What all maps of one picture are drawn by.

    Args:
        todo: what was asked for.
        spec: how it is drawn.
        geometry: as returned by ``preprocess`` for the picture.
        scores: its classes with their probability.

    Attributes:
        spec: how it is drawn.
        pixels: how many a drawn picture has at most.
        amount: pixels that one map takes to be drawn, in all its outputs.
    """

    def __init__(self, todo: Plan, spec: RenderSpec, geometry: Geometry, scores: Callable[[int], ClassScore]) -> None:
        self.spec = spec
        self._geometry, self._scores = geometry, scores
        self._placing = todo.placing
        against = todo.targets.against
        self._against = None if against is None else scores(against)
        self.pixels = pixels_for(spec, geometry)
        self.amount = drawn_pixels(spec.outputs, self.pixels)

    @property
    def needs_canvas(self) -> bool:
        """Whether something is laid on the picture."""
        return self.spec.needs_canvas

    def draw(self, raw: RawMap[NDArray[np.float32]], canvas: Canvas | None) -> MapAnswer:
        """Draw one map; ``canvas`` is what an overlay is laid on."""
        target, values = self._scores(raw.target), raw.values
        summary = summarise(values, signed=self.spec.signed, zero_gradient=raw.zero_gradient)
        # A constant map says nothing about places: drawn, it would be hot everywhere.
        shown = np.zeros_like(values) if summary.reason == "constant" else values
        placement = self.placement(raw)
        drawn = render(shown, self._geometry, self.spec, canvas, placement)
        if "hidden" in self.spec.outputs:
            assert canvas is not None
            drawn = replace(drawn, hidden=draw_hidden(shown, self._geometry, self.spec, canvas, placement))
        layer = None if self._placing.options.fuse else self._placing.layers.get(raw.layer)
        note = caveat(raw.method, target.label, target.probability, layer)
        return MapAnswer(raw.layer, raw.method, target, self._against, values, summary, note, drawn, placement)

    def placement(self, raw: RawMap[NDArray[np.float32]]) -> Placement | None:
        """Return where the cells of a map look; None where they cover the model's input evenly."""
        return self._placing.of(raw.layer, raw.method)
