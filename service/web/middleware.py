"""Pure ASGI middleware: a request id, a log line and metrics for every request, and a bound on its body."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from ulid import ULID

from service.errors import BodyTooLarge, InternalError, ServiceError
from service.problems import MEDIA_TYPE, headers_for, problem_for, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.metrics import Metrics

__all__ = ["BodyLimit", "RequestContext", "problem_response", "route_path"]

log = logging.getLogger("camserve.access")

_CLIENT_GONE = 499  # nginx's number for a client that did not wait; nobody reads it but the log and the metrics

# Asked every few seconds by whatever supervises the service.
_PROBES = {"/livez", "/readyz", "/metrics"}

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def problem_response(request: Request, error: ServiceError) -> Response:
    """Answer with an error as problem+json, and count it where it is a refusal."""
    if status_of(error) in {401, 403, 413, 429, 503}:
        metrics: Metrics = request.state.metrics
        metrics.rejected.labels(error.code).inc()
    body = problem_for(error, request.state.request_id).model_dump_json(exclude_none=True)
    return Response(body, status_of(error), headers_for(error), MEDIA_TYPE)


def route_path(scope: Scope) -> str:
    """Return the path as the routes know it: without what a server that this is mounted in puts before it."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "").rstrip("/")
    return path.removeprefix(prefix) if path.startswith(f"{prefix}/") else path


class RequestContext:
    """Gives every request an id, answers unexpected exceptions with a bare 500, and records the outcome."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _SANE_ID.fullmatch(sent) else str(ULID())
        scope.setdefault("state", {}).update(request_id=request_id, metrics=self._metrics)
        began = time.perf_counter()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or _CLIENT_GONE
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # the answer has begun: all that is left is to break the connection off
            response = problem_response(
                Request(scope), InternalError("Something went wrong here; the log has the reason.")
            )
            await response(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        level = logging.DEBUG if route in _PROBES else logging.INFO
        log.log(
            level, "%s %s %s %.1f ms %s", scope["method"], route, status, seconds * 1000, scope["state"]["request_id"]
        )


class BodyLimit:
    """Refuses bodies of more than ``max_bytes``, by their announced length or while they stream in."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced[:20]) > self._max_bytes:
            await problem_response(Request(scope), self._error())(scope, receive, send)
            return
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._error()
            return message

        await self._app(scope, receive_within_limit, send)

    def _error(self) -> BodyTooLarge:
        return BodyTooLarge(f"The request has more than {self._max_bytes} bytes. Send fewer or smaller pictures.")
