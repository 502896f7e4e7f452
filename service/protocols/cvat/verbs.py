"""What answers a CVAT server that calls a function."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.responses import Response

from service.errors import InvalidRequest
from service.http.requests import body_of, read_in_thread, refuse_encoded, unless_gone
from service.protocols.cvat.functions import find
from service.protocols.cvat.invocations import read_invocation, run

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from service.engine.answers import Answer
    from service.engine.explainer import Explainer

__all__ = ["invoke"]

_NAME_HEADER = "x-nuclio-function-name"


async def invoke(request: Request) -> Response:
    """Call the function that the header `x-nuclio-function-name` names.

    A detector answers a list of tags or shapes, an interactor a mask. Coordinates are pixels of the upright picture.
    """
    engine: Explainer = request.state.explainer
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
