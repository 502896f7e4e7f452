"""Answers as CVAT reads them: tags and shapes of a detector, the mask of an interactor.

Coordinates are pixels of the upright picture. Masks are bits, a number each, and written as bytes: as Python's lists
they would take thirty times the room.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from service.areas import area_of, levels_of
from service.errors import RequestTooCostly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from service.areas import Area
    from service.engine.answers import ImageAnswer, MapAnswer
    from service.protocols.cvat.functions import Kind

__all__ = ["areas", "levels", "mask_answer", "shapes", "tags"]

# A mask of more pixels is sent as its own part of the picture, with bounds.
_WHOLE_PIXELS = 2**22
# Of the masks of one class: each takes two bytes.
_MOST_BITS = 2**25


def tags(found: Sequence[tuple[str, float]]) -> bytes:
    """Write classes, by label and probability, as tags."""
    return json.dumps([_item(label, probability, "tag") for label, probability in found]).encode()


def shapes(image: ImageAnswer, kind: Kind, threshold: float) -> bytes:
    """Write every region of every explanation as a shape.

    Raises:
        RequestTooCostly: the masks have more pixels than one answer may.
    """
    return (
        b"[" + b",".join(shape for each in image.explanations for shape in _shapes(image, each, kind, threshold)) + b"]"
    )


def _shapes(image: ImageAnswer, explanation: MapAnswer, kind: Kind, threshold: float) -> Iterator[bytes]:
    target = explanation.target
    item = _item(target.label, target.probability, kind)
    if kind == "mask":
        bits = 0
        for area, polygon in areas(image, explanation, threshold):
            bits += area.bits.size
            if bits > _MOST_BITS:
                raise RequestTooCostly(
                    f"The masks of this picture have more than {_MOST_BITS:,} pixels, and CVAT takes each as a number. "
                    "Send a smaller picture, or call the function for polygons."
                )
            yield _mask(item | {"points": _flat(polygon)}, area)
        return
    for region in explanation.rendered.regions or ():
        box = region.box
        points = [box.left, box.top, box.right, box.bottom] if kind == "rectangle" else _flat(region.polygon)
        yield json.dumps(item | {"points": points}).encode()


def _item(label: str, probability: float, kind: Kind) -> dict[str, Any]:
    return {"confidence": f"{probability:.4f}", "label": label, "type": kind}


def _flat(polygon: Sequence[tuple[float, float]]) -> list[float]:
    return [coordinate for point in polygon for coordinate in point]


def levels(image: ImageAnswer, explanation: MapAnswer) -> NDArray[np.uint8]:
    """Return the map of an explanation on the picture's pixels, 0 to 255."""
    mask = explanation.rendered.mask
    assert mask is not None, "the mask was not asked for"
    return levels_of(mask.data, image.width, image.height)


def areas(
    image: ImageAnswer, explanation: MapAnswer, threshold: float
) -> Iterator[tuple[Area, Sequence[tuple[float, float]]]]:
    """Yield what each region of an explanation covers, with its outline."""
    regions = explanation.rendered.regions
    if not regions:
        return
    reached = levels(image, explanation)
    for region in regions:
        area = area_of(reached, region.polygon, threshold)
        if area is not None:
            yield area, region.polygon


def _mask(item: dict[str, Any], area: Area) -> bytes:
    """Write a mask: the bits of its box, row by row, then the box, whose last column and row belong to it."""
    box = f"{area.left},{area.top},{area.right},{area.bottom}"
    return (
        json.dumps(item).encode()[:-1] + b',"mask":[' + _digits(area.bits.reshape(1, -1))[1:-1] + f",{box}]}}".encode()
    )


def mask_answer(bits: NDArray[np.bool_]) -> bytes:
    """Write the answer of an interactor: the rows of the whole picture's mask, or of the part that matters."""
    if bits.size <= _WHOLE_PIXELS:
        return b'{"mask":[' + _digits(bits) + b"]}"
    rows, columns = np.flatnonzero(bits.any(axis=1)), np.flatnonzero(bits.any(axis=0))
    top, bottom = (int(rows[0]), int(rows[-1])) if rows.size else (0, 0)
    left, right = (int(columns[0]), int(columns[-1])) if columns.size else (0, 0)
    part = _digits(bits[top : bottom + 1, left : right + 1])
    return b'{"mask":[' + part + f'],"bounds":[{left},{top},{right},{bottom}]}}'.encode()


def _digits(bits: NDArray[np.bool_]) -> bytes:
    """Write rows of bits as lists of JSON, with commas between the lists."""
    height, width = bits.shape
    text = np.full((height, 2 * width + 2), ord(","), np.uint8)
    text[:, 0], text[:, -2] = ord("["), ord("]")
    text[:, 1:-2:2] = bits + np.uint8(ord("0"))
    return text.tobytes()[:-1]
