"""Wire protocols: each subpackage translates one to and from the engine.

A :class:`WireProtocol` describes it; the table of those that are served is ``PROTOCOLS`` in ``service/web/app.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from service.problems import problem_body

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from fastapi import APIRouter
    from fastapi.routing import APIRoute
    from pydantic import BaseModel

    from service.errors import ServiceError
    from service.http.examples import ErrorExample
    from service.settings import Network, Scope, Settings

__all__ = [
    "EXAMPLE_REQUEST_ID",
    "ErrorBody",
    "OpenApiPart",
    "Operation",
    "WireProtocol",
    "declared_scope",
    "key_scope",
    "operation_id",
]

EXAMPLE_REQUEST_ID = "01K0Z3V9E0Q6J6W9X0T8B6C7DM"

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

ErrorBody = Callable[["ServiceError", str], tuple[bytes, str]]
"""Words an error, given the request's id: returns a body and its media type. Status and headers are the error's own."""


def operation_id(route: APIRoute) -> str:
    """Name an operation after its function; every protocol's router is made with it."""
    return route.name


def key_scope(scope: Scope) -> Callable[[Endpoint], Endpoint]:
    """Declare the scope that an API key needs for a route; stands below the route's own decorator.

    Without it, reading (GET) needs the scope ``infer`` and everything else the scope ``manage``.
    """

    def declare(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["key_scope"] = scope
        return endpoint

    return declare


def declared_scope(endpoint: Callable[..., Any]) -> Scope | None:
    """Return what :func:`key_scope` declared for a route's endpoint; None if nothing."""
    scope: Scope | None = getattr(endpoint, "key_scope", None)
    return scope


@dataclass(frozen=True)
class Operation:
    """An operation of the OpenAPI document that a protocol may complete.

    Attributes:
        method: in lower case, as the document has it.
        path: as the route declares it.
        fields: the operation object; changed in place.
        schemas: the document's schemas, by name.
    """

    method: str
    path: str
    fields: dict[str, Any]
    schemas: Mapping[str, Any]


@dataclass(frozen=True)
class OpenApiPart:
    """What a protocol adds to what FastAPI derives from its routes.

    Attributes:
        description: a paragraph about it.
        models: models whose schemas the document must have.
        errors: by method (``get``, ``post``), what its operations can meet beside errors that keys bring with them.
        error_schema: the schema of its error body.
        complete: completes one of its operations.
    """

    description: str = ""
    models: tuple[type[BaseModel], ...] = ()
    errors: Mapping[str, tuple[ErrorExample, ...]] = field(default_factory=dict)
    error_schema: Mapping[str, Any] = field(default_factory=lambda: {"$ref": "#/components/schemas/Problem"})
    complete: Callable[[Operation], None] = lambda _: None


@dataclass(frozen=True)
class WireProtocol:
    """A protocol, as one row of the table.

    Paths are as the routes declare them, parameters in braces included: ``/v2/health/live``, ``/static/{path:path}``.

    Attributes:
        name: of the protocol, in lower case.
        router: its routes, whose scopes :func:`key_scope` declares.
        prefixes: the paths, with all below them, on which refusals go out in its error body.
        error_body: words an error; as problem+json if not given.
        open_paths: paths that are read without an API key.
        open_posts: paths that take what anybody posts, without a key: it must count for nothing.
        large_posts: paths whose posts go to the disk as they come, each with the setting that bounds their bytes in the
            place of ``max_body_bytes``; they take no room of ``max_inflight_bytes``.
        basic_keys: whether a key may also come as HTTP Basic, for tools that can send nothing but a URL.
        resources: makes what its routes share, when the application starts: ``request.state`` has it by the row's name.
        probes: paths that are answered even while the service drains or has too many connections, and that are neither
            traced nor logged but for debugging.
        modules: what its routes import when they are called. They are imported behind the start, while workers load
            models, and its requests wait until they are there: nothing is imported in the event loop.
        openapi: its part of the OpenAPI document; or the module that has it as ``OPENAPI``, which is imported then.
        addresses: from where its paths are asked, without a key; nobody else is answered, whatever key is sent. None
            where keys decide.
    """

    name: str
    router: APIRouter
    prefixes: tuple[str, ...] = ()
    error_body: ErrorBody = problem_body
    open_paths: tuple[str, ...] = ()
    open_posts: tuple[str, ...] = ()
    large_posts: Mapping[str, str] = field(default_factory=dict)
    basic_keys: bool = False
    resources: Callable[[Settings], AbstractAsyncContextManager[object]] | None = None
    probes: tuple[str, ...] = ()
    addresses: tuple[Network, ...] | None = None
    modules: tuple[str, ...] = ()
    openapi: OpenApiPart | str = field(default_factory=OpenApiPart)

    @property
    def openapi_part(self) -> OpenApiPart:
        """Its part of the OpenAPI document."""
        if isinstance(self.openapi, OpenApiPart):
            return self.openapi
        part: OpenApiPart = import_module(self.openapi).OPENAPI
        return part
