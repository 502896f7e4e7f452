"""The OpenAPI document: what FastAPI derives from the routes, completed by what each protocol says of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service import __version__
from service.problems import problem_body, status_of
from service.protocols import EXAMPLE_REQUEST_ID, OpenApiPart, Operation
from service.web.examples import KEY_ERRORS
from service.wire import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from pydantic import BaseModel

    from service.http.examples import ErrorExample
    from service.protocols import ErrorBody
    from service.settings import Scope
    from service.web.protocol_table import ProtocolTable

__all__ = ["document"]

_DESCRIPTION = "Top-k predictions and class activation maps for your own image classifiers."

_REQUEST_ID = {"description": "The caller's, if sent and sane.", "schema": {"type": "string"}}
_RETRY_AFTER = {"description": "Seconds after which a new try makes sense.", "schema": {"type": "integer"}}

_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key with the scope that the operation names, where the server asks for keys.",
}


def document(app: FastAPI, table: ProtocolTable) -> dict[str, Any]:
    """Build the document of ``app``, whose protocols stand in ``table``."""
    parts = [row.openapi for row in table.rows]
    paragraphs = [_DESCRIPTION, *(part.description for part in parts if part.description)]
    openapi = get_openapi(
        title="camserve", version=__version__, description="\n\n".join(paragraphs) + "\n", routes=app.routes
    )
    schemas = openapi["components"]["schemas"]
    schemas.update(_schemas(Problem, *(model for part in parts for model in part.models)))
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own; ours are the protocols'
        schemas.pop(unused, None)
    for path, operations in openapi["paths"].items():
        for method, fields in operations.items():
            _complete(Operation(method, path, fields, schemas), table)
    openapi["components"]["securitySchemes"] = {"key": _KEY}
    return openapi


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _complete(operation: Operation, table: ProtocolTable) -> None:
    row = table.protocol(operation.path)
    part = OpenApiPart() if row is None else row.openapi
    error_body = problem_body if row is None else row.error_body
    _describe_errors(operation, part, error_body, part.errors.get(operation.method, ()))
    if needed := table.scope_needed(operation.method.upper(), operation.path):
        _describe_errors(operation, part, error_body, KEY_ERRORS)
        _describe_key(operation, needed)
    part.complete(operation)
    _describe_headers(operation)


def _describe_key(operation: Operation, needed: Scope) -> None:
    operation.fields["security"] = [{"key": [needed]}, {}]  # {}: keys are optional


def _describe_errors(
    operation: Operation, part: OpenApiPart, error_body: ErrorBody, errors: Sequence[ErrorExample]
) -> None:
    for each in errors:
        body, media_type = error_body(each.error, EXAMPLE_REQUEST_ID)
        example = json.loads(body) if media_type.endswith("json") else body.decode()
        operation.fields["responses"][str(status_of(each.error))] = {
            "description": each.description,
            "content": {media_type: {"schema": dict(part.error_schema), "example": example}},
        }


def _describe_headers(operation: Operation) -> None:
    for status, response in operation.fields["responses"].items():
        response["headers"] = {"X-Request-ID": _REQUEST_ID}
        if status in {"429", "503"}:
            response["headers"]["Retry-After"] = _RETRY_AFTER
