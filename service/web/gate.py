"""Who may come in: everybody, until the server is told to stop or has too many connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import Request

from service.errors import NotReady, Overloaded
from service.web.middleware import PROBES, problem_response, route_path

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Gate", "Turnstile"]


@dataclass
class Gate:
    """What the server and the application know of the end.

    Attributes:
        leaving: told to stop. ``/readyz`` says so and connections are not kept, but work is still taken.
        closed: no new work is taken; what is inside is finished.
    """

    leaving: bool = False
    closed: bool = False


class Turnstile:
    """Refuses new requests once the gate is closed or the house is full, save those that ask how the service is.

    A request that came in before is not touched, even if its body is still on the way.
    """

    def __init__(self, app: ASGIApp, gate: Gate) -> None:
        self._app = app
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        error = None if scope["type"] != "http" or route_path(scope) in PROBES else self._refusal(scope)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(Request(scope), error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> NotReady | Overloaded | None:
        if self._gate.closed:
            return NotReady("The service is shutting down.", retry_after_s=5)
        if scope["state"].get("crowded"):
            return Overloaded("Too many connections are open. Try again later.", retry_after_s=2)
        return None
