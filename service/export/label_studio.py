"""Label Studio's tasks with predictions, and the labelling configuration that they go with.

Areas are rectangles, polygons or brushes; the classes of a picture are a choice, and the score is the best one's
probability. https://labelstud.io/guide/predictions
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from service.export.about import category_ids, replaced, write_list
from service.labelling.rle import encode

if TYPE_CHECKING:
    from pathlib import Path

    from service.export.about import About, Records, Shapes
    from service.export.records import Record, Shape

__all__ = ["config", "write"]

_CONTROLS: dict[Shapes, tuple[str, str, str]] = {
    # name of the control, its tag, and what regions of it are called
    "boxes": ("box", "RectangleLabels", "rectanglelabels"),
    "regions": ("polygon", "PolygonLabels", "polygonlabels"),
    "masks": ("mask", "BrushLabels", "brushlabels"),
}


def write(out: Path, records: Records, about: About) -> list[Path]:
    """Write the tasks, and the configuration beside them; return both paths."""
    settings = out.with_name(f"{out.stem}-config.xml")
    with replaced(settings) as file:
        file.write(config(about.labels, about.shapes))
    with replaced(out) as file:
        write_list(file, (_task(record, about) for record in records()))
        file.write("\n")
    return [out, settings]


def config(labels: tuple[str, ...], shapes: Shapes) -> str:
    """Return the labelling configuration whose controls and labels the predictions name."""
    name, tag, _ = _CONTROLS[shapes]
    names = [quoteattr(label) for label in category_ids(labels)]
    choices = "\n".join(f"    <Choice value={each}/>" for each in names)
    listed = "\n".join(f"    <Label value={each}/>" for each in names)
    return (
        f'<View>\n  <Image name="image" value="$image"/>\n'
        f'  <Choices name="class" toName="image" choice="single" showInLine="true">\n{choices}\n  </Choices>\n'
        f'  <{tag} name="{name}" toName="image">\n{listed}\n  </{tag}>\n</View>\n'
    )


def _task(record: Record, about: About) -> dict[str, Any]:
    best = record.predictions[0]
    choice = {"type": "choices", "from_name": "class", "to_name": "image", "id": "class"}
    result = [
        {**choice, "score": round(best.probability, 6), "value": {"choices": [best.label]}},
        *(_region(number, shape, record, about.shapes) for number, shape in enumerate(record.shapes)),
    ]
    prediction = {"model_version": about.version, "score": round(best.probability, 6), "result": result}
    return {"data": {"image": about.image_url + quote(record.file)}, "predictions": [prediction]}


def _region(number: int, shape: Shape, record: Record, shapes: Shapes) -> dict[str, Any]:
    name, _, kind = _CONTROLS[shapes]
    return {
        "id": f"{name}{number}",
        "type": kind,
        "from_name": name,
        "to_name": "image",
        "original_width": record.width,
        "original_height": record.height,
        "image_rotation": 0,
        "score": round(shape.target.probability, 6),
        "value": {**_place(shape, record, shapes), kind: [shape.target.label]},
    }


def _place(shape: Shape, record: Record, shapes: Shapes) -> dict[str, Any]:
    """Say where an area is: in percent of the picture, or as its pixels."""
    left, top, right, bottom = shape.box
    to_x, to_y = 100 / record.width, 100 / record.height
    area = shape.area() if shapes == "masks" else None
    if area is not None:
        return {"format": "rle", "rle": encode(area.on_picture(record.width, record.height))}
    if shapes == "regions":
        return {"points": [[_percent(x * to_x), _percent(y * to_y)] for x, y in shape.polygon], "closed": True}
    edges = {"x": left * to_x, "y": top * to_y, "width": (right - left) * to_x, "height": (bottom - top) * to_y}
    return {**{edge: _percent(value) for edge, value in edges.items()}, "rotation": 0}


def _percent(value: float) -> float:
    return round(min(100.0, max(0.0, value)), 4)
