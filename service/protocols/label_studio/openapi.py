"""Label Studio's part of the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequest, PictureNotFetched
from service.http.examples import BODY_ERRORS, READING_ERRORS, ErrorExample
from service.protocols import OpenApiPart
from service.protocols.label_studio.verbs import PredictBody, SetupBody

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["OPENAPI"]

_CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="box" toName="image"><Label value="star"/>'
    "</RectangleLabels></View>"
)
_VERSION = "shapes/b99b1f0c-b99b1f0c2a31/layer4/gradcam/t0.5"
_REGION = {
    "id": "5f2c9a0e11",
    "from_name": "box",
    "to_name": "image",
    "type": "rectanglelabels",
    "value": {"x": 43.4, "y": 19.5, "width": 33.4, "height": 41.5, "rotation": 0, "rectanglelabels": ["star"]},
    "score": 0.91,
    "original_width": 320,
    "original_height": 200,
    "image_rotation": 0,
}
_REQUESTS: dict[str, Any] = {
    "setup": {"project": "1.1795246490", "schema": _CONFIG, "hostname": "http://localhost:8080"},
    "predict": {
        "tasks": [{"id": 1, "data": {"image": "/data/upload/1/4a793b91-star.png"}}],
        "project": "1.1795246490",
        "label_config": _CONFIG,
        "params": {"login": None, "password": None, "context": None},
    },
}
_ANSWERS: dict[str, Any] = {
    "health": {"status": "UP", "model_class": "Grad-CAM", "model": "shapes", "state": "ready"},
    "setup": {"model_version": _VERSION},
    "predict": {"results": [{"result": [_REGION], "score": 0.91, "model_version": _VERSION}]},
    "versions": {"versions": [_VERSION]},
    "webhook": {},
}
_ERRORS = (
    *BODY_ERRORS,
    ErrorExample("The body is not what Label Studio sends.", InvalidRequest("This is not what Label Studio sends.")),
    ErrorExample(
        "The only picture asked about, or every one, cannot be fetched from Label Studio as it is set up.",
        PictureNotFetched("Label Studio refuses the picture: no token is configured. Set label_studio_token."),
    ),
)


_PARTS = {
    "model": "Name of a model, or an alias.",
    "layer": "A layer of its catalogue, or `default`.",
    "method": "A name from `GET /api/v1/methods`.",
}


def _complete(operation: Operation) -> None:
    name = operation.path.rpartition("/")[2]
    operation.fields["parameters"] = [
        {"name": part, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
        for part, text in _PARTS.items()
        if f"{{{part}}}" in operation.path
    ]
    responses = operation.fields["responses"]
    responses["200"]["content"]["application/json"]["example"] = _ANSWERS[name]
    if name == "webhook":
        for status in set(responses) - {"200", "431", "500", "503", "429"}:
            responses.pop(status)
    if name in _REQUESTS:
        model = SetupBody if name == "setup" else PredictBody
        operation.fields["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
                    "example": _REQUESTS[name],
                }
            },
        }


OPENAPI = OpenApiPart(
    description="A project of Label Studio takes `/integrations/label-studio[/{model}[/{layer}[/{method}]]]` as the "
    "URL of its ML backend.",
    models=(SetupBody, PredictBody),
    errors={"post": _ERRORS, "get": READING_ERRORS},
    complete=_complete,
)
