"""CVAT's part of the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.engine.versions import ModelStatus
from service.errors import UnknownFunction
from service.http.examples import BODY_ERRORS, READING_ERRORS, ErrorExample
from service.model_config import ModelConfig
from service.protocols import OpenApiPart
from service.protocols.cvat.functions import Function, described
from service.protocols.cvat.invocations import Invocation

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["OPENAPI"]

_DESCRIPTION = """\
A CVAT server that is told `/integrations/cvat` as the host of its functions has those of every model: as tags,
rectangles, polygons, masks and as a tool that is clicked with. See docs/cvat.md."""

_ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {"error": {"type": "string"}, "code": {"type": "string"}, "request_id": {"type": "string"}},
    "required": ["error", "code", "request_id"],
}
_NUMBER, _POINTS = {"type": "number"}, {"type": "array", "items": {"type": "number"}}
_BITS = {"type": "array", "items": {"type": "integer"}}
_SHAPE = {
    "type": "object",
    "properties": {
        "confidence": {"type": "string", "description": "Probability of the class."},
        "label": {"type": "string"},
        "type": {"enum": ["tag", "rectangle", "polygon", "mask"]},
        "points": {**_POINTS, "description": "x and y by turns; of a rectangle, two corners."},
        "mask": {**_BITS, "description": "Bits of a box, row by row; then left, top, right and bottom, inclusive."},
    },
    "required": ["confidence", "label", "type"],
}
_MASK = {
    "type": "object",
    "properties": {
        "mask": {"type": "array", "items": _BITS, "description": "Rows of bits."},
        "bounds": {**_BITS, "description": "Where the mask lies, if it is not that of the whole picture."},
    },
    "required": ["mask"],
}
_ANSWER = {"anyOf": [{"type": "array", "items": _SHAPE}, _MASK]}
_TAGS = [{"confidence": "0.9100", "label": "tabby", "type": "tag"}]
_EXAMPLE = described(
    Function("resnet50", "mask"), ModelStatus(ModelConfig(name="resnet50", architecture="resnet50"), "ready")
)
_UNKNOWN = ErrorExample(
    "There is no such function.", UnknownFunction.among("resnet50-masks", ["resnet50-mask", "resnet50-tag"])
)


def _complete(operation: Operation) -> None:
    content = operation.fields["responses"]["200"]["content"]
    if operation.method == "get":
        operation.fields["responses"].pop("422", None)
        one = operation.path.endswith("}")
        schema = {"type": "object"}
        example = _EXAMPLE if one else {"resnet50-mask": _EXAMPLE}
        content["application/json"] = {"schema": schema, "example": example}
        return
    content["application/json"] = {"schema": _ANSWER, "example": _TAGS}
    operation.fields["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Invocation"},
                "example": {"image": "/9j/4AAQSkZJRgABAQ…", "threshold": 0.5},
            }
        },
    }
    operation.fields["parameters"] = [
        {
            "name": "x-nuclio-function-name",
            "in": "header",
            "required": True,
            "description": "The function, such as `resnet50-mask`.",
            "schema": {"type": "string"},
        },
        {
            "name": "X-Nuclio-Invoke-Timeout",
            "in": "header",
            "required": False,
            "description": "Time allowed for the answer, such as `120s`.",
            "schema": {"type": "string", "pattern": "^[0-9]{1,6}s$"},
        },
    ]


OPENAPI = OpenApiPart(
    description=_DESCRIPTION,
    models=(Invocation,),
    errors={"post": (*BODY_ERRORS, _UNKNOWN), "get": (*READING_ERRORS, _UNKNOWN)},
    error_schema=_ERROR,
    complete=_complete,
)
