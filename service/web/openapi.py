"""The OpenAPI document: what FastAPI derives, and the request bodies and errors that the routes handle themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service import __version__, wire
from service.problems import MEDIA_TYPE
from service.web.examples import ANSWERS, FORMS, PROBLEMS, REQUESTS
from service.web.keys import scope_needed

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

__all__ = ["document"]

_DESCRIPTION = """\
Top-k predictions and class activation maps for your own image classifiers.

POST a picture to `/api/v1/explain`; the answer has the predictions and, for any class and any layer, a map of where
the model looked, lying exactly on the picture. Errors are problem details (RFC 9457) with a stable `code`.
"""

_ERRORS = {
    "400": "Not a picture, a truncated picture, bad base64, or no picture.",
    "401": "There is no API key, or an unknown one, where the server asks for keys.",
    "403": "The API key lacks the scope for this.",
    "404": "There is no such model.",
    "413": "The body, a picture's pixels or frames, or the number of pictures is over the limit.",
    "415": "The content type is none of the three.",
    "422": "An option is unknown or out of range.",
    "429": "The queue is full, or the API key has used up what it may ask; see Retry-After.",
    "500": "Our fault; the log has the reason under the request id.",
    "503": "Loading, draining, or no worker; see Retry-After.",
    "504": "The deadline passed.",
}
_REQUEST_ID = {"description": "The caller's, if sent and sane.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds after which a new try makes sense.", "schema": {"type": "integer"}}
_PICTURE = {"type": "string", "format": "binary"}

_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key with the scope that the operation names, where the server asks for keys.",
}

# Errors that routes without a body can meet.
_KEY_ERRORS = ("401", "403", "429")
_READING_ERRORS = (*_KEY_ERRORS, "404", "422", "500", "503")


def document(app: FastAPI) -> dict[str, Any]:
    """Build the document of ``app``."""
    openapi = get_openapi(title="camserve", version=__version__, description=_DESCRIPTION, routes=app.routes)
    components = openapi["components"]["schemas"]
    components.update(_schemas(wire.ExplainRequest, wire.PredictRequest, wire.Problem))
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are problems
        components.pop(unused, None)
    for path, operations in openapi["paths"].items():
        for verb, operation in operations.items():
            if path.startswith("/api/v1"):
                _describe_errors(operation, _ERRORS if verb == "post" else _READING_ERRORS)
            if verb == "post":
                _describe_body(operation, wire.PredictRequest if "predict" in path else wire.ExplainRequest, components)
            if needed := scope_needed(path):
                _describe_errors(operation, _KEY_ERRORS)
                operation["security"] = [{"key": [needed]}, {}]  # {}: keys are optional
            _describe_answers(operation)
    openapi["components"]["securitySchemes"] = {"key": _KEY}
    return openapi


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _describe_errors(operation: dict[str, Any], statuses: Any) -> None:
    for status in statuses:
        operation["responses"][status] = {
            "description": _ERRORS[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": PROBLEMS[status]}},
        }


def _describe_answers(operation: dict[str, Any]) -> None:
    name, responses = operation["operationId"], operation["responses"]
    content = responses["200"].setdefault("content", {})
    if name in ANSWERS:
        content["application/json"]["example"] = ANSWERS[name]
    if name.startswith("explain"):
        kinds = ("image/png", "image/jpeg", "image/webp")
        content |= {kind: {"schema": _PICTURE} for kind in kinds}
        responses["200"]["description"] = (
            "The answers; or, where `Accept` asks for a picture and there is one picture and one explanation, the "
            "overlay itself."
        )
    if name == "metrics":
        content["text/plain"] = {"schema": {"type": "string"}}
    for status, response in responses.items():
        response["headers"] = {"X-Request-ID": _REQUEST_ID}
        if status in {"429", "503"}:
            response["headers"]["Retry-After"] = _RETRY_AFTER


def _describe_body(operation: dict[str, Any], model: type[BaseModel], components: dict[str, Any]) -> None:
    options = {name: schema for name, schema in components[model.__name__]["properties"].items() if name != "images"}
    form = {
        "type": "object",
        "properties": {"image": {"type": "array", "items": _PICTURE, "description": "One or more files."}, **options},
        "required": ["image"],
        "additionalProperties": False,
    }
    operation["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form, "example": FORMS[model.__name__]},
            "application/json": {
                "schema": {"$ref": f"#/components/schemas/{model.__name__}"},
                "example": REQUESTS[model.__name__],
            },
            "image/*": {"schema": _PICTURE},
            "application/octet-stream": {"schema": _PICTURE},
        },
    }
    operation["parameters"] = [
        *operation.get("parameters", []),
        *(
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": "With any encoding; where the body has the same option, the body's counts.",
                "schema": schema,
            }
            for name, schema in options.items()
        ),
        {
            "name": "X-Request-Timeout-Ms",
            "in": "header",
            "required": False,
            "description": "Time allowed for the answer.",
            "schema": {"type": "integer", "minimum": 1, "maximum": 3_600_000},
        },
    ]
