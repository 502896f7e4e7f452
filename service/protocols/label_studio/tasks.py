"""What stands in a task: where its pictures are, and what somebody has marked in it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard

from service.errors import InvalidOption
from service.imaging.comparison import MAX_POINTS, marked_area

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.protocols.label_studio.config import ImageTag, Labelling

__all__ = ["marked_region", "pointed_image", "value_of_task"]

_STEP = re.compile(r"[^.\[\]]+")


def value_of_task(tag: ImageTag, task: Mapping[str, Any]) -> Any:
    """Return where the picture, or the list of pictures, of a tag is; None where the task does not say.

    ``$image`` is a name in the task's data, ``$page.url`` and ``$pages[0]`` are paths in it; anything else is the
    address itself.
    """
    if not tag.value.startswith("$"):
        return tag.value
    name = tag.value[1:]
    data: Any = task.get("data")
    if isinstance(data, dict) and name in data:
        return data[name]
    for step in _STEP.findall(name):
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and step.isdecimal() and int(step[:9]) < len(data):
            data = data[int(step[:9])]
        else:
            return None
    return data


def pointed_image(labelling: Labelling, context: Mapping[str, Any]) -> tuple[ImageTag | None, int | None]:
    """Return the picture that somebody marked something in, and which one of a list it is."""
    results = context.get("result")
    for result in results if isinstance(results, list) else ():
        if isinstance(result, dict) and (image := labelling.images.get(str(result.get("to_name")))) is not None:
            item = result.get("item_index")
            return image, item if isinstance(item, int) and item >= 0 else 0 if image.several else None
    return next(iter(labelling.images.values()), None), None


def marked_region(task: Mapping[str, Any], image: str) -> list[Any] | None:
    """Return the first box or outline with an area that the annotations have of a picture, in pixels, or None."""
    annotations = task.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        results = annotation.get("result") if isinstance(annotation, dict) else None
        for result in results if isinstance(results, list) else ():
            if isinstance(result, dict) and result.get("to_name") == image and (region := _region(result)):
                try:
                    marked_area(region)
                except InvalidOption:
                    continue
                return region
    return None


def _region(result: Mapping[str, Any]) -> list[Any] | None:
    value, width, height = result.get("value"), result.get("original_width"), result.get("original_height")
    if not isinstance(value, dict) or not (_is_size(width) and _is_size(height)):
        return None
    across, down = width / 100, height / 100
    points = value.get("points")
    if isinstance(points, list) and len(points) >= 3 and all(_is_point(point) for point in points):
        kept = points[:: -(-len(points) // MAX_POINTS)]
        return [[point[0] * across, point[1] * down] for point in kept]
    x, y, wide, high = (value.get(name) for name in ("x", "y", "width", "height"))
    if _is_number(x) and _is_number(y) and _is_size(wide) and _is_size(high):
        return [x * across, y * down, (x + wide) * across, (y + high) * down]
    return None


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and _is_number(value[0]) and _is_number(value[1])


def _is_size(value: Any) -> TypeGuard[float]:
    return _is_number(value) and value > 0


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
