"""What somebody points at, and the part of the map that lies there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import contourpy
import numpy as np
import shapely

from service.areas import Clicks
from service.errors import InvalidOption
from service.labelling.masks import bounds_of, peak_of
from service.labelling.rle import decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from service.protocols.label_studio.config import Control, Labelling
    from service.protocols.label_studio.regions import Size

    Mask = NDArray[np.bool_]
    Levels = NDArray[np.uint8]

__all__ = ["Pointed", "answering_control", "part_pointed_at", "pointed_at", "value_of"]

_TYPES = ("keypointlabels", "rectanglelabels", "brushlabels", "keypoint", "rectangle", "brush")
_MAX_MARKS = 100
# What answers, the most exact first.
_ANSWERS = ("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "keypointlabels")


@dataclass(frozen=True)
class Pointed:
    """A place that somebody marked with a smart tool.

    Attributes:
        type: of the tool.
        value: what the editor says of it, in per cent of the picture.
        positive: whether it belongs to what is meant; otherwise it does not.
    """

    type: str
    value: Mapping[str, Any]
    positive: bool

    @property
    def label(self) -> str | None:
        """The label that was chosen for it, if one was."""
        names = self.value.get(self.type) or self.value.get("labels")
        return str(names[0]) if isinstance(names, list) and names else None

    def point(self, size: Size) -> tuple[float, float] | None:
        """Return where it is, or its middle, in pixels, inside the picture; None of a brush that marks nothing."""
        if self.type.startswith("brush"):
            area = decode(self.value.get("rle"), size.height, size.width)
            if not area.any():
                return None
            left, top, right, bottom = bounds_of(area)
            return (left + right) / 2, (top + bottom) / 2
        x, y = self._pixels("x", size.width), self._pixels("y", size.height)
        x += self._pixels("width", size.width) / 2 if self.type.startswith("rectangle") else 0
        y += self._pixels("height", size.height) / 2 if self.type.startswith("rectangle") else 0
        return min(max(x, 0.0), size.width - 0.5), min(max(y, 0.0), size.height - 0.5)

    def draw_on(self, covered: Mask, size: Size) -> None:
        """Add the pixels that it covers: of a point, the one that it lies in."""
        if self.type.startswith("brush"):
            covered |= decode(self.value.get("rle"), size.height, size.width)
        elif self.type.startswith("rectangle"):
            left, top = self._pixels("x", size.width), self._pixels("y", size.height)
            right, bottom = left + self._pixels("width", size.width), top + self._pixels("height", size.height)
            covered[_span(top, bottom, size.height), _span(left, right, size.width)] = True
        elif (point := self.point(size)) is not None:
            covered[int(point[1]), int(point[0])] = True

    def _pixels(self, name: str, of: int) -> float:
        per_cent = self.value.get(name, 0)
        if isinstance(per_cent, bool) or not isinstance(per_cent, int | float) or not -1e6 < per_cent < 1e6:
            raise InvalidOption(f"{name!r} of what was marked is no number of per cent.")
        return per_cent * of / 100


def _span(begin: float, end: float, most: int) -> slice:
    first = min(most - 1, max(0, int(begin)))
    return slice(first, max(first + 1, min(most, round(end))))


def pointed_at(context: Mapping[str, Any]) -> list[Pointed]:
    """Return what was marked with smart tools, in order.

    Raises:
        InvalidOption: it is more than somebody would mark by hand.
    """
    results = context.get("result")
    marks = list(islice(_marks(results), _MAX_MARKS + 1)) if isinstance(results, list) else []
    if len(marks) > _MAX_MARKS:
        raise InvalidOption(f"More than {_MAX_MARKS} places are marked, and no more are looked at. Remove some.")
    return marks


def _marks(results: Sequence[Any]) -> Iterator[Pointed]:
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if isinstance(value, dict) and result.get("type") in _TYPES:
            yield Pointed(result["type"], value, bool(result.get("is_positive", True)))


def answering_control(labelling: Labelling, image: str, label: str | None) -> Control | None:
    """Return the control that an answer is drawn with: one that has the label, the most exact; None if none can be."""
    able = [control for control in labelling.about(image) if control.type in _ANSWERS and not control.interactive_only]

    def rank(control: Control) -> tuple[bool, int]:
        has = any(label in (each.value, *each.names) for each in control.labels)
        return not has, _ANSWERS.index(control.type)

    return min(able, key=rank, default=None)


def part_pointed_at(levels: Levels, marks: Sequence[Pointed], size: Size, threshold: float) -> Mask:
    """Return what belongs to the places that were marked: the part of the map that hangs together there.

    That is what reaches ``threshold`` times the highest level; or, where the places are lower than that, their own
    level. In rectangles alone, it is measured by the highest level within, and nothing outside belongs to it. What lies
    nearer to a place that was marked as not meant is cut off.

    Args:
        levels: the map on the picture, (h, w), 255 its maximum.
        marks: the places.
        size: of the picture.
        threshold: in 0–1.
    """
    meant = [mark for mark in marks if mark.positive]
    seeds = np.zeros(levels.shape, np.bool_)
    for mark in meant:
        mark.draw_on(seeds, size)
    inside = int(levels.max(where=seeds, initial=0))
    if not inside:
        return np.zeros(levels.shape, np.bool_)
    highest = int(levels.max())
    if all(mark.type.startswith("rectangle") for mark in meant):  # a rectangle is drawn around what is meant
        levels, highest = np.where(seeds, levels, 0).astype(np.uint8), inside
    here, there = _points(meant, size), _points([mark for mark in marks if not mark.positive], size)
    return Clicks(here, there).part(levels, seeds, min(inside, threshold * highest))


def _points(marks: Sequence[Pointed], size: Size) -> list[tuple[float, float]]:
    return [point for mark in marks if (point := mark.point(size)) is not None]


def value_of(control: Control, label: str, levels: Levels, mask: Mask, size: Size) -> dict[str, Any]:
    """Return a mask, which holds something, as the value of a box, an outline or a point."""
    left, top, right, bottom = bounds_of(mask)
    across, down = 100 / size.width, 100 / size.height
    if control.type == "keypointlabels":
        x, y = peak_of(levels, mask)
        return {"x": x * across, "y": y * down, "width": 0.5, control.type: [label]}
    if control.type == "rectanglelabels":
        box = {"x": left * across, "y": top * down, "width": (right - left) * across, "height": (bottom - top) * down}
        return {**box, "rotation": 0, control.type: [label]}
    points = [[x * across, y * down] for x, y in _outline(mask)]
    return {"points": points, "closed": True, control.type: [label]}


def _outline(mask: Mask) -> list[tuple[float, float]]:
    """Return the outline of a mask's largest part, in pixels, a point for at most every hundredth of its size."""
    padded = np.pad(mask.astype(np.float32), 1)
    lines = contourpy.contour_generator(z=padded, name="serial", line_type="Separate").lines(0.5)
    outline = max((shapely.Polygon(line) for line in lines if len(line) > 3), key=lambda each: float(each.area))
    simple = outline.simplify(max(0.5, 0.01 * float(outline.area) ** 0.5))
    height, width = mask.shape
    return [
        (min(max(float(x) - 0.5, 0.0), width), min(max(float(y) - 0.5, 0.0), height))
        for x, y in simple.exterior.coords[:-1]
    ]
