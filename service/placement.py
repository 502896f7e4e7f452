"""Where the cells of a layer look: an affine map per axis from cells to pixels of the model's input.

Coordinates are continuous: pixel i covers [i, i + 1) and cell j covers [j, j + 1), so that their centres are at i + 0.5
and j + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from service.vocabulary import Registration

__all__ = ["AxisPlacement", "Placement"]

# A number, or an array of a library that this module need not know.
_Value = TypeVar("_Value", bound=Any)


@dataclass(frozen=True, slots=True)
class AxisPlacement:
    """One axis. The step is negative where the layer sees the picture mirrored.

    Attributes:
        start: the centre of the first cell, in pixels of the model's input; it may lie outside.
        step: pixels from one centre to the next.
    """

    start: float
    step: float

    def to_cells(self, pixels: _Value) -> _Value:
        """Map pixels of the model's input to cell coordinates."""
        return cast("_Value", (pixels - self.start) / self.step + 0.5)

    def to_model(self, cells: _Value) -> _Value:
        """Map cell coordinates to pixels of the model's input."""
        return cast("_Value", self.start + (cells - 0.5) * self.step)


@dataclass(frozen=True, slots=True)
class Placement:
    """Both axes of a layer's grid.

    Attributes:
        x: along its columns.
        y: along its rows.
        residual: how far the centres of cells lie from these lines, in pixels of the model's input (root mean square,
            the worse axis); None where nothing was measured.
        by: how it was found: measured, or by stretching the grid over the model's input.

    Example:
        >>> Placement.stretched(7, 7, 224, 224).x
        AxisPlacement(start=16.0, step=32.0)
    """

    x: AxisPlacement
    y: AxisPlacement
    residual: float | None = None
    by: Registration = "measured"

    @classmethod
    def stretched(cls, height: int, width: int, input_height: int, input_width: int) -> Placement:
        """Cover an input evenly with ``height`` × ``width`` cells."""
        step_x, step_y = input_width / width, input_height / height
        return cls(AxisPlacement(step_x / 2, step_x), AxisPlacement(step_y / 2, step_y), by="stretch")

    def turned_back(self, width: int, input_width: int) -> Placement:
        """Return where the cells of the mirror image's map look, once it is turned back: in pixels of the input.

        Cell j of ``width`` is the one that looks as far from the right edge of the mirror image as it then does here
        from the left.
        """
        return replace(self, x=replace(self.x, start=input_width - self.x.start - (width - 1) * self.x.step))

    def averaged_with_mirror(self, width: int, input_width: int) -> Placement:
        """Return where the cells look on average over a picture and its mirror image, whose map was turned back.

        In the mirror image, cell j of ``width`` looks as far from the right edge as it does here from the left.
        """
        return replace(self, x=replace(self.x, start=(input_width - (width - 1) * self.x.step) / 2))
