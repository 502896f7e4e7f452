"""What somebody marked on the pictures of a folder: a file of COCO, or a mask for each picture."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from service.errors import InvalidOption, ServiceError, UnknownLabel
from service.evaluation.pictures import truth_of_boxes, truth_of_mask
from service.imaging.decode import decode

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from service.evaluation.pictures import Truth
    from service.imaging.decode import DecodeLimits
    from service.imaging.geometry import Geometry
    from service.models.info import ModelInfo

__all__ = ["Marked", "class_named", "mask_file", "read_coco", "read_mask", "truths_of"]

_FARTHEST = 1e6  # pixels
_HALF_WHITE = 128
_MASK_SUFFIXES = (".mask.png", ".png")


@dataclass
class Marked:
    """What a file of COCO says of one picture, by category: boxes and polygons in its pixels.

    Attributes:
        boxes: as (left, top, right, bottom).
        polygons: each as x, y, x, y, ….
        name: the picture's.
        size: width and height of the picture that was marked; None where the file does not say.
    """

    boxes: dict[str, list[tuple[float, float, float, float]]] = field(default_factory=lambda: defaultdict(list))
    polygons: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))
    name: str = ""
    size: tuple[int, int] | None = None

    def require_size(self, width: int, height: int) -> None:
        """Make sure that these are marks of a picture as large as the one at hand, which is ``width`` × ``height``.

        Raises:
            InvalidOption: they are not, and would lie elsewhere on it.
        """
        if self.size is not None and self.size != (width, height):
            raise InvalidOption(
                f"What is marked on {self.name} is, by 'width' and 'height' in 'images', in pixels of "
                f"{self.size[0]}×{self.size[1]}; the picture has {width}×{height}, upright as its EXIF says. Mark "
                "pictures of this size, or leave 'width' and 'height' out if they are wrong."
            )


def class_named(name: str, info: ModelInfo) -> int | None:
    """Return the class that a name means; None where it means none. A number is a name like any other."""
    try:
        found = info.class_index(name)
    except UnknownLabel:
        return None
    return found if not name.lstrip("#-").isdecimal() or info.has_label(name) else None


def read_coco(file: Path) -> dict[str, Marked]:
    """Return what is marked by the pictures' file names.

    Raises:
        InvalidOption: it is no file of COCO.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        names = {image["id"]: _text(image["file_name"]) for image in content["images"]}
        sizes = {names[image["id"]]: _size(image) for image in content["images"]}
        categories = {each["id"]: _text(each["name"]) for each in content.get("categories") or ()}
        annotations = list(content["annotations"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidOption(
            f"{file} is no COCO file: it needs 'images' with 'id' and 'file_name', and 'annotations' with 'image_id' "
            f"and 'bbox' [left, top, width, height]. ({type(error).__name__}: {error})"
        ) from error
    found: dict[str, Marked] = defaultdict(Marked)
    for number, each in enumerate(annotations, 1):
        try:
            if not each.get("iscrowd"):
                _add(found[_picture_of(each, names)], categories.get(each.get("category_id"), ""), each)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise InvalidOption(
                f"{file}: annotation {number} of {len(annotations)} cannot be read: it needs an 'image_id' of one of "
                "the 'images' and a 'bbox' [left, top, width, height] of numbers, and may have a 'category_id' and, "
                f"as 'segmentation', polygons [[x, y, x, y, …]]. ({type(error).__name__}: {error})"
            ) from error
    return {name: replace(each, name=name, size=sizes[name]) for name, each in found.items()}


def _size(image: dict[str, Any]) -> tuple[int, int] | None:
    """Return what an entry of 'images' says of the picture's size; some programs write 0, or nothing."""
    size = image.get("width"), image.get("height")
    return size if all(isinstance(side, int) and side > 0 for side in size) else None  # type: ignore[return-value]


def _text(value: Any) -> str:
    if not isinstance(value, str | int):
        raise TypeError(f"{value!r} is no name")
    return str(value)


def _picture_of(annotation: dict[str, Any], names: dict[Any, str]) -> str:
    if annotation["image_id"] not in names:
        raise ValueError(f"there is no image {annotation['image_id']!r}")
    return names[annotation["image_id"]]


def _add(marked: Marked, category: str, annotation: dict[str, Any]) -> None:
    left, top, width, height = (_number(value) for value in annotation["bbox"])
    marked.boxes[category].append((left, top, left + width, top + height))
    outline = annotation.get("segmentation")
    if isinstance(outline, list):  # run lengths are not read: the box counts
        marked.polygons[category].extend(each for each in map(_polygon, outline) if len(each) >= 6)


def _polygon(values: Any) -> list[float]:
    if not isinstance(values, list) or len(values) % 2:
        raise ValueError("a polygon is a list [x, y, x, y, …]")
    return [_number(value) for value in values]


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= _FARTHEST:
        raise ValueError(f"{value!r} is no place in a picture")
    return number


def truths_of(marked: Marked, geometry: Geometry, info: ModelInfo) -> dict[int | None, Truth]:
    """Return the truths of a picture by class; of categories that the model does not know, together under None.

    Raises:
        InvalidOption: what is marked is of a picture of another size.
    """
    marked.require_size(geometry.image_width, geometry.image_height)
    grouped: dict[int | None, list[str]] = defaultdict(list)
    for category in marked.boxes:
        grouped[class_named(category, info)].append(category)
    found = {label: _truth(marked, categories, geometry) for label, categories in grouped.items()}
    return {label: truth for label, truth in found.items() if truth is not None}


def _truth(marked: Marked, categories: list[str], geometry: Geometry) -> Truth | None:
    boxes = [box for category in categories for box in marked.boxes[category]]
    polygons = [polygon for category in categories for polygon in marked.polygons[category]]
    if len(polygons) < len(boxes):
        return truth_of_boxes(boxes, geometry)
    drawn = Image.new("1", (geometry.image_width, geometry.image_height))
    for polygon in polygons:
        ImageDraw.Draw(drawn).polygon(polygon, fill=1)
    return truth_of_mask(np.asarray(drawn), geometry) or truth_of_boxes(boxes, geometry)


def mask_file(folder: Path, picture: Path) -> Path | None:
    """Return the mask of a picture, by its path from its own folder: the same name, ``.mask.png`` or ``.png``."""
    names = [folder / picture.with_name(picture.stem + suffix) for suffix in _MASK_SUFFIXES]
    return next((name for name in names if name.is_file()), None)


def read_mask(file: Path, geometry: Geometry, limits: DecodeLimits) -> Truth | None:
    """Read a mask: what is at least half white is the object.

    Raises:
        InvalidOption: it is no picture, not as large as the picture that it belongs to, or neither black nor white.
        OSError: it cannot be read.
    """
    try:
        grey: NDArray[np.uint8] = np.asarray(decode(file.read_bytes(), limits).rgb.convert("L"))
    except ServiceError as error:
        raise InvalidOption(f"The mask {file} cannot be read: {error}") from error
    if grey.shape != (geometry.image_height, geometry.image_width):
        sizes = f"{grey.shape[1]}×{grey.shape[0]} pixels, its picture {geometry.image_width}×{geometry.image_height}"
        raise InvalidOption(f"The mask {file} has {sizes}: they must be of one size.")
    if 0 < (highest := int(grey.max())) < _HALF_WHITE:
        raise InvalidOption(
            f"The mask {file} has nothing that is at least half white: its brightest pixel is {highest} of 255. Make "
            "objects white (255), as in a mask of 0 and 1 or of colours they are not; without any it is black."
        )
    return truth_of_mask(grey >= _HALF_WHITE, geometry)
