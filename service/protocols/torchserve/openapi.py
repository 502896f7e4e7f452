"""TorchServe's part of the OpenAPI document: bodies and answers that its routes handle themselves, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequest
from service.http.examples import BODY_ERRORS, READING_ERRORS, TIMEOUT_HEADER, ErrorExample
from service.protocols import OpenApiPart
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["ANSWERS", "OPENAPI", "REQUEST"]

_DESCRIPTION = """\
TorchServe's paths (`/ping`, `/predictions/{model}`, `/explanations/{model}`, and `/models` to be read) answer its
clients; errors are `{"code": …, "type": "…", "message": "…"}`."""

_STRING, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {"code": _INTEGER, "type": _STRING, "message": _STRING},
}
_MODEL = {
    "type": "object",
    "required": ["modelName", "modelVersion", "modelUrl", "workers", "jobQueueStatus"],
    "properties": {
        "modelName": _STRING,
        "modelVersion": _STRING,
        "modelUrl": _STRING,
        "workers": {"type": "array", "description": "With keys, for those with the scope manage.", "items": {}},
        "jobQueueStatus": {"type": "object", "additionalProperties": _INTEGER},
    },
}
_MODELS = {
    "type": "object",
    "required": ["models"],
    "properties": {
        "models": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["modelName", "modelUrl"],
                "properties": {"modelName": _STRING, "modelUrl": _STRING},
            },
        },
        "nextPageToken": _STRING,
    },
}
_STATUS = {"type": "object", "required": ["status"], "properties": {"status": {"enum": ["Healthy", "Unhealthy"]}}}
_SCHEMAS: dict[str, Any] = {
    "torchserve_ping": _STATUS,
    "torchserve_predict": {"type": "object", "additionalProperties": _NUMBER},
    "torchserve_explain": {"type": "array", "items": {"type": "array", "items": _NUMBER}},
    "torchserve_models": _MODELS,
    "torchserve_model": {"type": "array", "items": _MODEL},
}
_SAME = {
    "torchserve_predict_version": "torchserve_predict",
    "torchserve_explain_version": "torchserve_explain",
    "torchserve_version": "torchserve_model",
}
ANSWERS: dict[str, Any] = {
    "torchserve_ping": {"status": "Healthy"},
    "torchserve_predict": {"tabby": 0.61, "tiger cat": 0.24},
    "torchserve_explain": [[0.0, 0.8, 0.1], [0.2, 3.7, 1.1], [0.0, 0.4, 0.0]],
    "torchserve_models": {"models": [{"modelName": "resnet50", "modelUrl": "resnet50"}]},
    "torchserve_model": [
        {
            "modelName": "resnet50",
            "modelVersion": "IMAGENET1K_V2",
            "modelUrl": "resnet50",
            "engine": "Torch",
            "runtime": "python",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 16,
            "maxBatchDelay": 0,
            "loadedAtStartup": True,
            "status": "ready",
            "workers": [{"id": "0", "status": "READY", "gpu": False, "memoryUsage": 0, "pid": 4711}],
            "jobQueueStatus": {"remainingCapacity": 128, "pendingRequests": 0},
        }
    ],
}
REQUEST = {"data": "/9j/4AAQSkZJRgABAQ…", "target": "tabby"}
_FILE = {"type": "string", "format": "binary"}
_PICTURES = ("image/png", "image/jpeg", "image/webp")
_FORMAT = {"enum": ["json", "png", "jpeg", "webp"], "description": "As `Accept`: the overlay instead of numbers."}


def _options() -> dict[str, Any]:
    """Return the options that a query, a form or JSON may have, besides a picture."""
    properties: dict[str, Any] = ExplainOptions.model_json_schema()["properties"]
    return {
        **{name: schema for name, schema in properties.items() if name not in {"output", "scores", "region"}},
        "format": _FORMAT,
    }


def _complete(operation: Operation) -> None:
    name = operation.fields["operationId"]
    name = _SAME.get(name, name)
    responses = operation.fields["responses"]
    content = responses["200"].setdefault("content", {})
    content["application/json"] = {"schema": _SCHEMAS[name], "example": ANSWERS[name]}
    if name == "torchserve_ping":
        unhealthy = {"application/json": {"schema": _STATUS, "example": {"status": "Unhealthy"}}}
        responses["500"] = {"description": "No model can answer, or the service drains.", "content": unhealthy}
    if name == "torchserve_explain":
        content |= {kind: {"schema": _FILE} for kind in _PICTURES}
    if operation.method == "post":
        _complete_inference(operation.fields)


def _complete_inference(fields: dict[str, Any]) -> None:
    options = _options()
    form = {"type": "object", "required": ["data"], "properties": {"data": _FILE, **options}}
    body = {"type": "object", "required": ["data"], "properties": {"data": _STRING, **options}}
    queried = [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in options.items()]
    fields["parameters"] = [*fields.get("parameters", []), *queried, dict(TIMEOUT_HEADER)]
    fields["requestBody"] = {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": _FILE},
            "image/*": {"schema": _FILE},
            "multipart/form-data": {"schema": form, "example": {"data": "@cat.jpg", "target": ["281"]}},
            "application/json": {"schema": body, "example": REQUEST},
        },
    }


OPENAPI = OpenApiPart(
    description=_DESCRIPTION,
    errors={
        "get": READING_ERRORS,
        "post": (
            *BODY_ERRORS,
            ErrorExample(
                "No picture, or one that cannot be read.",
                InvalidRequest("The body is not JSON: expected value at line 1 column 1. Send the picture itself."),
            ),
        ),
    },
    error_schema=_ERROR,
    complete=_complete,
)
