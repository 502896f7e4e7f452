"""COCO's JSON, for whatever reads it: an annotation per area, with box, area, segmentation and score.

https://cocodataset.org/#format-data
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from service.export.about import category_ids, replaced, write_list

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from service.areas import Area
    from service.export.about import About, Records
    from service.export.records import Record, Shape

__all__ = ["write"]


def write(out: Path, records: Records, about: About) -> list[Path]:
    """Write the file; return its path."""
    categories = category_ids(about.labels)
    with replaced(out) as file:
        info = {"description": f"Class activation maps of {about.version}, by camserve", "version": about.version}
        file.write(f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"licenses": [],\n"categories": ')
        write_list(file, ({"id": number, "name": name, "supercategory": ""} for name, number in categories.items()))
        file.write(',\n"images": ')
        write_list(file, (_image(number, each) for number, each in enumerate(records(), start=1)))
        file.write(',\n"annotations": ')
        write_list(file, _annotations(records, categories, about))
        file.write("}\n")
    return [out]


def _image(number: int, record: Record) -> dict[str, Any]:
    return {"id": number, "file_name": record.file, "width": record.width, "height": record.height}


def _annotations(records: Records, categories: dict[str, int], about: About) -> Iterator[dict[str, Any]]:
    number = 0
    for image, record in enumerate(records(), start=1):
        for shape in record.shapes:
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": categories[shape.target.label],
                "iscrowd": 0,
                "score": round(shape.target.probability, 6),
                **_place(shape, record, about),
            }


def _place(shape: Shape, record: Record, about: About) -> dict[str, Any]:
    left, top, right, bottom = shape.box
    box = [left, top, right - left, bottom - top]
    if about.shapes == "boxes":
        return {"bbox": box, "area": box[2] * box[3], "segmentation": []}
    area = shape.area()
    if area is None:
        outline = [coordinate for point in shape.polygon for coordinate in point]
        return {"bbox": box, "area": _size(shape.polygon), "segmentation": [outline]}
    height, width = area.bits.shape
    runs = _runs(area, record.width, record.height)
    return {
        "bbox": [area.left, area.top, width, height],
        "area": int(area.bits.sum()),
        "segmentation": {"size": [record.height, record.width], "counts": runs},
    }


def _size(polygon: list[tuple[float, float]]) -> float:
    """Return the area of a polygon, in pixels."""
    x, y = np.array(polygon).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def _runs(area: Area, width: int, height: int) -> list[int]:
    """Return COCO's run lengths: column by column, of zeros and ones by turns, zeros first."""
    flat: NDArray[np.bool_] = area.on_picture(width, height).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs: list[int] = np.diff(changes, prepend=0, append=flat.size).tolist()
    return [0, *runs] if flat[0] else runs
