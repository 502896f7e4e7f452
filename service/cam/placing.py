"""Where the cells of a map look. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.cam.layers import finest_of
from service.cam.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.cam.layers import Layer
    from service.cam.targets import CamOptions
    from service.placement import Placement
    from service.vocabulary import Registration

__all__ = ["Placing"]


@dataclass(frozen=True)
class Placing:
    """Places the maps of one request.

    Attributes:
        layers: those asked for, by name.
        options: how maps were made.
        registration: where cells are drawn.
        height: of the model's input, in pixels.
        width: likewise.
    """

    layers: Mapping[str, Layer]
    options: CamOptions
    registration: Registration
    height: int
    width: int

    def of(self, layer: str, method: str) -> Placement | None:
        """Return where the cells of a map look; None where they cover the model's input evenly."""
        if not METHODS[method].uses_layer:
            return None
        meant = self._finest() if self.options.fuse else self.layers[layer]
        return meant.placed(self.registration, self.height, self.width, flip=self.options.flip)

    def _finest(self) -> Layer:
        layers = list(self.layers.values())
        return layers[finest_of([layer.grid for layer in layers])]
