"""The rows of CVAT in the table of protocols: below a path of its own, and at the root, since CVAT knows no path.

What answers is imported behind the start.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from service.protocols import WireProtocol, key_scope, operation_id

if TYPE_CHECKING:
    from service.errors import ServiceError
    from service.settings import Settings

__all__ = ["CVAT", "at_root"]

PREFIX = "/integrations/cvat"
FUNCTIONS, INVOCATIONS = "/api/functions", "/api/function_invocations"
_MODULES = ("service.protocols.cvat.functions", "service.protocols.cvat.verbs")


async def cvat_functions(request: Request) -> dict[str, Any]:
    """Five functions of every model, by name: tag, rectangle, polygon, mask, and the interactor click."""
    from service.protocols.cvat.functions import listed  # noqa: PLC0415  # adds nothing to the start

    return listed(request.state.explainer.models())


async def cvat_function(name: str, request: Request) -> dict[str, Any]:
    """One function, as the list has it."""
    from service.protocols.cvat.functions import described, find  # noqa: PLC0415  # adds nothing to the start

    return described(*find(name, request.state.explainer.models()))


@key_scope("infer")
async def cvat_invoke(request: Request) -> Response:
    """Call the function that the header `x-nuclio-function-name` names.

    A detector answers a list of tags or shapes, an interactor a mask. Coordinates are pixels of the upright picture.
    """
    from service.protocols.cvat.verbs import invoke  # noqa: PLC0415  # adds nothing to the start

    return await invoke(request)


def _make_router(prefix: str, names: str = "") -> APIRouter:
    """Return the routes below ``prefix``; ``names`` ends the names of the operations, which must differ."""
    router = APIRouter(prefix=prefix, tags=["cvat"], generate_unique_id_function=operation_id)
    router.add_api_route(
        FUNCTIONS, cvat_functions, methods=["GET"], name=f"cvat_functions{names}", summary="List the functions for CVAT"
    )
    router.add_api_route(
        f"{FUNCTIONS}/{{name}}",
        cvat_function,
        methods=["GET"],
        name=f"cvat_function{names}",
        summary="Describe a function for CVAT",
    )
    router.add_api_route(
        INVOCATIONS, cvat_invoke, methods=["POST"], name=f"cvat_invoke{names}", summary="Call a function from CVAT"
    )
    return router


def _error_body(error: ServiceError, request_id: str) -> tuple[bytes, str]:
    """Word an error as Nuclio's dashboard does; CVAT shows its status, and logs the rest."""
    body = {"error": error.message, "code": error.code, "request_id": request_id}
    return json.dumps(body, ensure_ascii=False).encode(), "application/json"


CVAT = WireProtocol(
    name="cvat",
    router=_make_router(PREFIX),
    prefixes=(PREFIX,),
    error_body=_error_body,
    modules=_MODULES,
    openapi="service.protocols.cvat.openapi",
)


def at_root(settings: Settings) -> tuple[WireProtocol, ...]:
    """Return the row for CVAT servers that know host and port alone, and send no key; none unless they are let in."""
    if not settings.cvat_root:
        return ()
    row = WireProtocol(
        name="cvat at the root",
        router=_make_router("", "_at_root"),
        prefixes=(FUNCTIONS, INVOCATIONS),
        error_body=_error_body,
        addresses=settings.cvat_allow,
        modules=_MODULES,
        openapi="service.protocols.cvat.openapi",
    )
    return (row,)
