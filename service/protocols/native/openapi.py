"""The native API's part of the OpenAPI document: request bodies and answers that its routes handle themselves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from service import wire, wire_models
from service.http.examples import BODY_ERRORS, READING_ERRORS, TIMEOUT_HEADER
from service.problems import problem_body, status_of
from service.protocols import EXAMPLE_REQUEST_ID, OpenApiPart
from service.protocols.native import evaluations_openapi
from service.protocols.native.examples import (
    ANSWERS,
    CONFIGURATION,
    FORMS,
    MANAGEMENT_ERRORS,
    REQUESTS,
)
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from service.protocols import Operation

__all__ = ["OPENAPI"]

_DESCRIPTION = """\
POST a picture to `/api/v1/explain`; the answer has the predictions and, for any class and any layer, a map of where
the model looked, lying exactly on the picture. Errors are problem details (RFC 9457) with a stable `code`."""

_PICTURE = {"type": "string", "format": "binary"}


def _complete(operation: Operation) -> None:
    if "evaluations" in operation.fields["tags"]:
        evaluations_openapi.complete(operation, OPENAPI.error_schema)
        return
    if "management" in operation.fields["tags"] and operation.method != "get":
        _complete_management(operation)
        return
    if operation.method == "post":
        model = wire.PredictRequest if "predict" in operation.path else wire.ExplainRequest
        _describe_body(operation.fields, model, operation.schemas)
    name = operation.fields["operationId"]
    answer = operation.fields["responses"]["200"]
    answer["content"]["application/json"]["example"] = ANSWERS[name]
    if name.startswith("explain"):
        answer["content"] |= {kind: {"schema": _PICTURE} for kind in ("image/png", "image/jpeg", "image/webp")}
        answer["description"] = (
            "The answers; or, where `Accept` asks for a picture and there is one picture and one explanation, the "
            "overlay itself."
        )


def _complete_management(operation: Operation) -> None:
    name, responses = operation.fields["operationId"], operation.fields["responses"]
    for of_pictures in ("415", "504"):
        responses.pop(of_pictures, None)
    for each in MANAGEMENT_ERRORS:
        body, media_type = problem_body(each.error, EXAMPLE_REQUEST_ID)
        responses[str(status_of(each.error))] = {
            "description": each.description,
            "content": {media_type: {"schema": dict(OPENAPI.error_schema), "example": json.loads(body)}},
        }
    for status in {"200", "202"} & responses.keys():
        responses[status]["content"]["application/json"]["example"] = ANSWERS[name]
    if name == "put_alias":
        example = {name: ANSWERS["put_alias"][name] for name in ("model", "version")}
        operation.fields["requestBody"] = _json_body(wire_models.AliasTarget.model_json_schema(), example)
    if name == "put_model":
        operation.fields["requestBody"] = _json_body(_configuration(), dict(CONFIGURATION))


def _json_body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _configuration() -> dict[str, Any]:
    """Return the schema of a model's configuration as PUT takes it; the name stands in the path."""
    schema = ModelConfig.model_json_schema()
    fields = {name: field for name, field in schema["properties"].items() if name != "name"}
    return {
        "type": "object",
        "properties": fields,
        "required": ["architecture"],
        "additionalProperties": False,
    }


def _describe_body(operation: dict[str, Any], model: type[BaseModel], schemas: Mapping[str, Any]) -> None:
    options = {name: schema for name, schema in schemas[model.__name__]["properties"].items() if name != "images"}
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
        dict(TIMEOUT_HEADER),
    ]


OPENAPI = OpenApiPart(
    description=_DESCRIPTION,
    models=(wire.ExplainRequest, wire.PredictRequest),
    errors={"post": BODY_ERRORS, "get": READING_ERRORS, "put": READING_ERRORS, "delete": READING_ERRORS},
    complete=_complete,
)
