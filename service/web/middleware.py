"""Pure ASGI middleware: an id, a log line and metrics for every request, admission, and bounds on bodies."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import TYPE_CHECKING

from opentelemetry.trace import get_current_span
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from ulid import ULID

from service import logs
from service.engine.spans import current_trace_id
from service.errors import BodyTooLarge, InternalError, NotReady, Overloaded, RequestTimeout, ServiceError
from service.problems import STATUS, headers_for, status_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.engine.lifecycle import Lifecycle
    from service.metrics import Metrics
    from service.protocols import ErrorBody
    from service.settings import Settings
    from service.web.imports import Imports
    from service.web.protocol_table import ProtocolTable

__all__ = ["AdmissionControl", "BodyLimit", "RequestContext", "error_response", "route_path"]

log = logging.getLogger("camserve.access")

_CLIENT_GONE = 499  # nginx's number for a client that did not wait; nobody reads it but the log and the metrics

# Statuses of requests that are sound, but more than the caller may ask or than fits.
_REFUSALS = {401, 403, 408, 413, 429, 503}

# Bodies that go to the disk are large; no more of them than places for evaluations can be on the way.
_LARGE_TIMES = 6

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def error_response(request: Request, error: ServiceError) -> Response:
    """Answer with an error in the words of the path's protocol, and count it where it is a refusal."""
    if status_of(error) in _REFUSALS:
        metrics: Metrics = request.state.metrics
        metrics.rejected.labels(error.code).inc()
    error_body: ErrorBody = request.state.error_body
    body, media_type = error_body(error, request.state.request_id)
    return Response(body, status_of(error), headers_for(error), media_type)


def route_path(scope: Scope) -> str:
    """Return the path as the routes know it: without the prefix below which a server mounts the application.

    Cut exactly as Starlette does, also below ``/`` and ``/cam/``: a key's scope is that of the route that is reached.
    """
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    return below if below.startswith("/") else path


class RequestContext:
    """Gives every request an id and its protocol's errors, turns exceptions into a bare 500, records the outcome."""

    def __init__(self, app: ASGIApp, metrics: Metrics, table: ProtocolTable) -> None:
        self._app = app
        self._metrics = metrics
        self._table = table
        for code in (code for code, status in STATUS.items() if status in _REFUSALS):
            metrics.rejected.labels(code)  # begins at zero: a series that appears with its first event does not rise

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _SANE_ID.fullmatch(sent) else str(ULID())
        path = route_path(scope)  # before a mount changes the scope
        error_body = self._table.error_body(path)
        scope.setdefault("state", {}).update(request_id=request_id, metrics=self._metrics, error_body=error_body)
        logs.request_id.set(request_id)  # a request is a task of its own: nobody sets it back
        get_current_span().set_attribute("camserve.request_id", request_id)
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
            response = error_response(
                Request(scope), InternalError("Something went wrong here; the log has the reason.")
            )
            await response(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if self._table.is_probe(path) else logging.INFO
            self._record(scope, status, time.perf_counter() - began, level)

    def _record(self, scope: Scope, status: int, seconds: float, level: int) -> None:
        route = _route(scope)
        self._metrics.requests.labels(route, str(status)).inc()
        self._metrics.request_seconds.labels(route).observe(seconds)
        trace_id = current_trace_id()
        ids = " ".join(filter(None, (scope["state"]["request_id"], trace_id)))
        facts = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "duration_ms": round(seconds * 1000, 1),
            "key": scope["state"].get("key"),
            "trace_id": trace_id or None,
        }
        log.log(level, "%s %s %s %.1f ms %s", scope["method"], route, status, seconds * 1000, ids, extra=facts)


def _route(scope: Scope) -> str:
    """Return the pattern of the route that was reached: one of few, whatever paths are tried."""
    if "route" not in scope and "endpoint" in scope:
        return f"{scope['root_path']}/{{path}}"  # a folder of files: its name alone
    return getattr(scope.get("route"), "path", "unknown")


class AdmissionControl:
    """Refuses new requests while the service is closed or its connections are too many; probes are answered.

    Requests that came in before are not touched, even if their bodies are still on the way. Those that come in first of
    all wait until what answers them is imported.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, table: ProtocolTable, imports: Imports) -> None:
        self._app = app
        self._lifecycle = lifecycle
        self._table = table
        self._imports = imports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or self._table.is_probe(route_path(scope)):
            await self._app(scope, receive, send)
        elif error := self._refusal(scope):
            await error_response(Request(scope), error)(scope, receive, send)
        else:
            with self._lifecycle.request():
                await self._imports.there(self._table.protocol(route_path(scope)))
                await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> NotReady | Overloaded | None:
        if self._lifecycle.closed:
            return NotReady("The service is shutting down.", retry_after_s=5)
        if scope["state"].get("crowded"):
            return Overloaded("Too many connections are open. Try again later.", retry_after_s=2)
        return None


class BodyLimit:
    """Refuses bodies that are too long, that exceed the room for all bodies together, or that stall.

    Args:
        app: what to protect.
        table: says which bodies go to the disk as they come.
        settings: bytes of one body, of all bodies together that have come in and are not yet answered, longest pause
            between two pieces, and time for all of them. What was announced and has not come counts for nothing, or a
            few idle connections could take all the room.
    """

    def __init__(self, app: ASGIApp, table: ProtocolTable, settings: Settings) -> None:
        self._app, self._table, self._settings = app, table, settings
        self._max_inflight = max(settings.max_inflight_bytes, settings.max_body_bytes)
        self._inflight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        setting = self._table.large_post(scope["method"], route_path(scope))
        most, in_memory = int(getattr(self._settings, setting or "max_body_bytes")), setting is None
        announced = Headers(scope=scope).get("content-length", "0")
        size = int(announced[:20]) if announced.isdecimal() else 0
        if error := self._refusal(size, size * in_memory, most):
            await error_response(Request(scope), error)(scope, receive, send)
            return
        received, complete = 0, False
        latest = asyncio.get_running_loop().time() + self._settings.transfer_timeout_s * (
            1 if in_memory else _LARGE_TIMES
        )

        async def receive_within_limits() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()  # waits for the client to go away, for as long as that takes
            message = await self._in_time(receive, latest)
            more = len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if more and (error := self._refusal(received + more, more * in_memory, most)):
                raise error
            received += more
            self._inflight += more * in_memory
            return message

        try:
            await self._app(scope, receive_within_limits, send)
        finally:
            self._inflight -= received * in_memory

    async def _in_time(self, receive: Receive, latest: float) -> Message:
        until = min(latest, asyncio.get_running_loop().time() + self._settings.stall_timeout_s)
        try:
            async with asyncio.timeout_at(until):
                return await receive()
        except TimeoutError:
            raise RequestTimeout(
                f"The body made a pause of more than {self._settings.stall_timeout_s:g} s, or took too long in all. "
                "Send it again, or send less at once."
            ) from None

    def _refusal(self, size: int, more: int, most: int) -> BodyTooLarge | Overloaded | None:
        """Say what is wrong with a body of ``size`` bytes, ``more`` of which take memory; None if nothing is."""
        if size > most:
            return BodyTooLarge(f"The request has more than {most} bytes. Send fewer or smaller pictures.")
        if more and self._inflight + more > self._max_inflight:
            return Overloaded("Too many bytes of other requests are being answered. Try again later.", retry_after_s=1)
        return None
