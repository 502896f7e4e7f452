"""Requests as Label Studio 1.23.2 was seen to send them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from service.labelling.rle import decode

PREFIX = "/integrations/label-studio"
SAMPLES = Path("service/demo/samples")
STAR, GEAR = (SAMPLES / name for name in ("03-star.png", "11-gear.png"))

LABELS = '<Label value="star" background="green"/><Label value="gear"/>'
EVERYTHING = f"""
<View>
  <Header value="What is it?"/>
  <Image name="image" value="$image" zoom="true"/>
  <Choices name="kind" toName="image"><Choice value="Star"/><Choice value="gear"/><Choice value="whale"/></Choices>
  <RectangleLabels name="box" toName="image">{LABELS}</RectangleLabels>
  <PolygonLabels name="outline" toName="image">{LABELS}</PolygonLabels>
  <BrushLabels name="brush" toName="image">{LABELS}</BrushLabels>
  <BitmaskLabels name="soft" toName="image">{LABELS}</BitmaskLabels>
  <KeyPointLabels name="peak" toName="image">{LABELS}</KeyPointLabels>
  <TextArea name="words" toName="image"/>
  <Rating name="stars" toName="image"/>
  <EllipseLabels name="ellipse" toName="image">{LABELS}</EllipseLabels>
</View>
"""


def config(*controls: str, image: str = 'value="$image"') -> str:
    return f'<View><Image name="image" {image}/>{"".join(controls)}</View>'


def uri(file: Path | bytes) -> str:
    data = file if isinstance(file, bytes) else file.read_bytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def task(number: int, image: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "data": {"image": image},
        "meta": {},
        "is_labeled": False,
        "overlap": 1,
        "project": 1,
        "file_upload": 1,
        "annotations": [],
        "predictions": [],
        **more,
    }


def asked(tasks: list[dict[str, Any]], label_config: str = EVERYTHING, context: Any = None) -> dict[str, Any]:
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "project": "1.1795246490", "label_config": label_config, "params": params}


def setup(label_config: str = EVERYTHING) -> dict[str, Any]:
    return {
        "project": "1.1795246490",
        "schema": label_config,
        "hostname": "http://localhost:8080",
        "access_token": "0123456789abcdef0123456789abcdef01234567",
        "extra_params": None,
    }


def by_control(prediction: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for result in prediction["result"]:
        found.setdefault(result["from_name"], []).append(result)
    return found


def mask_of(result: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The mask of a brush, as the editor would draw it."""
    return decode(result["value"]["rle"], result["original_height"], result["original_width"])


def opacity_of(result: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    payload = result["value"]["imageDataURL"].removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(payload))).getchannel("A"))


def click(x: float, y: float, label: str | None = "star", *, positive: bool = True) -> dict[str, Any]:
    """What the editor sends of a click of the smart keypoint, in per cent."""
    labels = {"keypointlabels": [label], "labels": [label]} if label else {}
    return {
        "original_width": 192,
        "original_height": 192,
        "image_rotation": 0,
        "value": {"x": x, "y": y, "width": 0.26, **labels},
        "is_positive": positive,
        "id": "Sg8rMq3mpn",
        "from_name": "ask",
        "to_name": "image",
        "type": "keypointlabels",
        "origin": "manual",
    }
