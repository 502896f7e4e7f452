"""The OpenAPI document: what FastAPI derives from the routes, completed by what each protocol says of itself."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service import __version__
from service.problems import problem_body, status_of
from service.protocols import EXAMPLE_REQUEST_ID, OpenApiPart, Operation
from service.web.examples import KEY_ERRORS
from service.wire import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fastapi import FastAPI
    from pydantic import BaseModel

    from service.http.examples import ErrorExample
    from service.protocols import ErrorBody
    from service.settings import Scope
    from service.web.protocol_table import ProtocolTable

__all__ = ["document"]

_DESCRIPTION = "Top-k predictions and class activation maps for your own image classifiers."

_HEADERS = {
    "X-Request-ID": {"description": "The caller's, if sent and sane.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which a new try makes sense.", "schema": {"type": "integer"}},
}

_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key with the scope that the operation names, where the server asks for keys.",
}


def document(app: FastAPI, table: ProtocolTable) -> dict[str, Any]:
    """Build the document of ``app``, whose protocols stand in ``table``."""
    parts = [row.openapi_part for row in table.rows]
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
    openapi["components"] |= {"securitySchemes": {"key": _KEY}, "headers": _HEADERS, **_shared(openapi["paths"], table)}
    return openapi


def _schemas(*models: type[BaseModel]) -> dict[str, Any]:
    _, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = schema["$defs"]
    return definitions


def _complete(operation: Operation, table: ProtocolTable) -> None:
    row = table.protocol(operation.path)
    part = OpenApiPart() if row is None else row.openapi_part
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
        names = ["X-Request-ID", "Retry-After"] if status in {"429", "503"} else ["X-Request-ID"]
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


@dataclass(frozen=True)
class _Place:
    """Where something stands in the document that several operations may have.

    Attributes:
        names: what it may be called among the components, best first.
        holder: what holds it.
        key: under which.
    """

    names: tuple[str, ...]
    holder: Any
    key: Any


def _shared(paths: Mapping[str, Any], table: ProtocolTable) -> dict[str, dict[str, Any]]:
    """Return, by kind and name, what several operations have, and leave references in its places."""
    places: dict[tuple[str, str], list[_Place]] = defaultdict(list)
    for path, operations in paths.items():
        row = table.protocol(path)
        for fields in operations.values():
            for kind, place in _places(fields, "service" if row is None else row.name):
                places[kind, json.dumps(place.holder[place.key], sort_keys=True)].append(place)
    components: dict[str, dict[str, Any]] = defaultdict(dict)
    repeated = [(kind, group) for (kind, _), group in places.items() if len(group) > 1]
    for kind, group in sorted(repeated, key=lambda each: -len(each[1])):  # what is commonest has the best name
        name = next(name for place in group for name in place.names if name not in components[kind])
        components[kind][name] = group[0].holder[group[0].key]
        for place in group:
            place.holder[place.key] = {"$ref": f"#/components/{kind}/{name}"}
    return components


def _places(fields: dict[str, Any], protocol: str) -> Iterator[tuple[str, _Place]]:
    """Yield the kinds and places of what an operation may have in common with others."""
    operation, parameters, responses = fields["operationId"], fields.get("parameters", []), fields["responses"]
    for number, parameter in enumerate(parameters):
        name = parameter["name"]
        yield "parameters", _Place((f"{protocol}.{name}", f"{operation}.{name}"), parameters, number)
    if "requestBody" in fields:
        yield "requestBodies", _Place((operation,), fields, "requestBody")
    for status in responses:
        names = (f"{protocol}.{status}", f"{operation}.{status}") if status >= "400" else (f"{operation}.{status}",)
        yield "responses", _Place(names, responses, status)
