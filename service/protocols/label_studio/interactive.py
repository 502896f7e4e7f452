"""What somebody points at, and the part of the map that lies there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import InvalidOption
from service.labelling.masks import bounds_of, nearer_to, parts_at, peak_of
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

    def points(self, size: Size) -> list[tuple[float, float]]:
        """Return where it is, as one point in pixels, inside the picture."""
        x, y = self._pixels("x", size.width), self._pixels("y", size.height)
        x += self._pixels("width", size.width) / 2 if self.type.startswith("rectangle") else 0
        y += self._pixels("height", size.height) / 2 if self.type.startswith("rectangle") else 0
        return [(min(max(x, 0.0), size.width - 0.5), min(max(y, 0.0), size.height - 0.5))]

    def area(self, size: Size) -> Mask:
        """Return the pixels (h, w) that it covers: of a point, the one that it lies in."""
        covered = np.zeros((size.height, size.width), np.bool_)
        if self.type.startswith("brush"):
            return decode(self.value.get("rle"), size.height, size.width)
        if self.type.startswith("rectangle"):
            left, top = self._pixels("x", size.width), self._pixels("y", size.height)
            right, bottom = left + self._pixels("width", size.width), top + self._pixels("height", size.height)
            covered[_span(top, bottom, size.height), _span(left, right, size.width)] = True
            return covered
        ((x, y),) = self.points(size)
        covered[int(y), int(x)] = True
        return covered

    def _pixels(self, name: str, of: int) -> float:
        per_cent = self.value.get(name, 0)
        if isinstance(per_cent, bool) or not isinstance(per_cent, int | float) or not -1e6 < per_cent < 1e6:
            raise InvalidOption(f"{name!r} of what was marked is no number of per cent.")
        return per_cent * of / 100


def _span(begin: float, end: float, most: int) -> slice:
    first = min(most - 1, max(0, int(begin)))
    return slice(first, max(first + 1, min(most, round(end))))


def pointed_at(context: Mapping[str, Any]) -> list[Pointed]:
    """Return what was marked with smart tools, in order."""
    results = context.get("result")
    return list(_marks(results)) if isinstance(results, list) else []


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
        seeds |= mark.area(size)
    inside = int(levels.max(where=seeds, initial=0))
    if not inside:
        return np.zeros(levels.shape, np.bool_)
    rectangles = [mark for mark in meant if mark.type.startswith("rectangle")]
    within = len(rectangles) == len(meant)
    highest = inside if within else int(levels.max())
    mask = levels >= max(1.0, min(inside, threshold * highest))
    if within:
        mask &= seeds  # a rectangle is drawn around what is meant
    return parts_at(_without(mask, marks, size), seeds & mask)


def _without(mask: Mask, marks: Sequence[Pointed], size: Size) -> Mask:
    """Cut off what is nearer to a place that is not meant than to one that is."""
    others = [point for mark in marks if not mark.positive for point in _places(mark, size)]
    if not others:
        return mask
    here = [point for mark in marks if mark.positive for point in _places(mark, size)]
    return mask & nearer_to(mask.shape, here, others)


def _places(mark: Pointed, size: Size) -> list[tuple[float, float]]:
    if not mark.type.startswith("brush"):
        return mark.points(size)
    area = mark.area(size)
    if not area.any():
        return []
    left, top, right, bottom = bounds_of(area)
    return [((left + right) / 2, (top + bottom) / 2)]


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
    import contourpy  # noqa: PLC0415  # with the first outline
    import shapely  # noqa: PLC0415

    padded = np.pad(mask.astype(np.float32), 1)
    lines = contourpy.contour_generator(z=padded, name="serial", line_type="Separate").lines(0.5)
    outline = max((shapely.Polygon(line) for line in lines if len(line) > 3), key=lambda each: float(each.area))
    simple = outline.simplify(max(0.5, 0.01 * float(outline.area) ** 0.5))
    height, width = mask.shape
    return [
        (min(max(float(x) - 0.5, 0.0), width), min(max(float(y) - 0.5, 0.0), height))
        for x, y in simple.exterior.coords[:-1]
    ]
