"""The routes that a CVAT server calls, as Nuclio's dashboard has them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from service.engine.explainer import Explainer
from service.errors import InvalidRequest
from service.http.requests import body_of, read_in_thread, refuse_encoded, unless_gone
from service.protocols import key_scope
from service.protocols.cvat.functions import described, find, listed
from service.protocols.cvat.invocations import read_invocation, run

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from service.engine.answers import Answer

__all__ = ["FUNCTIONS", "INVOCATIONS", "make_router"]

FUNCTIONS, INVOCATIONS = "/api/functions", "/api/function_invocations"
_NAME_HEADER = "x-nuclio-function-name"


async def _explainer(request: Request) -> Explainer:
    explainer: Explainer = request.state.explainer
    return explainer


Engine = Annotated[Explainer, Depends(_explainer)]


async def cvat_functions(engine: Engine) -> dict[str, Any]:
    """Five functions of every model, by name: tag, rectangle, polygon, mask, and the interactor click."""
    return listed(engine.models())


async def cvat_function(name: str, engine: Engine) -> dict[str, Any]:
    """One function, as the list has it."""
    return described(*find(name, engine.models()))


@key_scope("infer")
async def cvat_invoke(request: Request, engine: Engine) -> Response:
    """Call the function that the header `x-nuclio-function-name` names.

    A detector answers a list of tags or shapes, an interactor a mask. Coordinates are pixels of the upright picture.
    """
    refuse_encoded(request)
    name = request.headers.get(_NAME_HEADER)
    if name is None:
        raise InvalidRequest(f"The header {_NAME_HEADER} is missing. Name the function there.")
    function, status = find(name, engine.models())
    if not status.on_demand:
        engine.refuse_early(function.model)
    body = await body_of(request)
    invocation, picture = await read_in_thread(request, lambda: read_invocation(body), len(body))
    known = status.info or status.known
    work = run(request, function, len(known.labels) if known else 1, invocation, picture)
    written, answer = await unless_gone(request, work)
    return _Written(engine, answer, written)


class _Written(Response):
    """An answer that counts as work that is inside until it is sent: masks are large."""

    def __init__(self, engine: Explainer, answer: Answer, written: bytes) -> None:
        super().__init__(written, media_type="application/json")
        self._engine = engine
        self._answer = replace(answer, cost=replace(answer.cost, bytes=len(written)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._engine.sending(self._answer):
            await super().__call__(scope, receive, send)


def make_router(prefix: str, names: str = "") -> APIRouter:
    """Return the routes below ``prefix``; ``names`` ends the names of the operations, which must differ."""
    router = APIRouter(prefix=prefix, tags=["cvat"])
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
