"""A folder that FiftyOne reads as a dataset: samples with their labels as JSON, without FiftyOne.

    fo.Dataset.from_dir("exported", dataset_type=fo.types.LegacyFiftyOneDataset)

Files of that type say nothing of a version of FiftyOne, and their labels may be any: classes, masks, heatmaps.
"""

from __future__ import annotations

import base64
import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from service.client.fiftyone import field_names
from service.export.about import replaced, write_list

if TYPE_CHECKING:
    from pathlib import Path

    from service.export.about import About, Records, Shapes
    from service.export.records import Record, Score, Shape

__all__ = ["write"]


def write(out: Path, records: Records, about: About) -> list[Path]:
    """Write the folder; return its path."""
    out.mkdir(parents=True, exist_ok=True)
    with replaced(out / "samples.json") as file:
        file.write('{"samples": ')
        write_list(file, (_sample(record, about) for record in records()))
        file.write("}\n")
    return [out]


def _sample(record: Record, about: About) -> dict[str, Any]:
    best = record.predictions[0]
    fields: dict[str, Any] = {
        "filepath": str(about.folder.absolute() / record.file),
        "tags": [],
        "prediction": _classification(best),
        "top_k": {"_cls": "Classifications", "classifications": [_classification(each) for each in record.predictions]},
        "camserve_version": about.version,
    }
    names = field_names("heatmap", [(heat.layer, heat.method) for heat in record.heats])
    for name, heat in zip(names, record.heats, strict=True):
        fields[name] = {"_cls": "Heatmap", "map": _packed(heat.levels()), "range": [0, 255]}
    detections = [_detection(shape, record, about.shapes) for shape in record.shapes]
    fields["regions"] = {"_cls": "Detections", "detections": detections}
    return fields


def _classification(score: Score) -> dict[str, Any]:
    return {"_cls": "Classification", "label": score.label, "confidence": score.probability}


def _detection(shape: Shape, record: Record, shapes: Shapes) -> dict[str, Any]:
    """Write an area as a box relative to the picture and, if asked for, the mask inside it."""
    left, top, right, bottom = shape.box
    detection: dict[str, Any] = {
        "_cls": "Detection",
        "label": shape.target.label,
        "confidence": shape.target.probability,
        "layer": shape.layer,
        "method": shape.method,
    }
    if (area := shape.area() if shapes == "masks" else None) is not None:
        left, top, right, bottom = area.left, area.top, area.right + 1, area.bottom + 1
        detection["mask"] = _packed(area.bits)
    width, height = (right - left) / record.width, (bottom - top) / record.height
    return {**detection, "bounding_box": [left / record.width, top / record.height, width, height]}


def _packed(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Write an array as FiftyOne's JSON has it: NumPy's own format, compressed."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(buffer.getvalue())).decode("ascii"), "subType": "00"}}
