"""One client's connection: uvicorn's, with a bound on everything that it would wait for or gather without one.

uvicorn bounds the time between requests and nothing else: not that of a request's head, nor its size, nor that of a
client that takes no answer. The pauses of a body are bounded by :class:`service.web.middleware.BodyLimit`, which can
still answer; requests that cannot be answered any more are closed here.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import unquote

import httptools
from ulid import ULID
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout, ServiceError
from service.problems import headers_for, status_of
from service.web.headers import FOR_ERRORS
from service.web.hosts import check_host

if TYPE_CHECKING:
    import asyncio

    from uvicorn.config import Config
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
    from uvicorn.server import ServerState

    from service.engine.lifecycle import Lifecycle
    from service.metrics import Metrics
    from service.protocols import ErrorBody
    from service.settings import Settings
    from service.web.protocol_table import ProtocolTable
    from service.web.waiting import Waiting

__all__ = ["RESERVE", "Connection"]

log = logging.getLogger("camserve.connection")

_MAX_HEAD_BYTES = 64 * 1024
_MAX_PIPELINED = 16
# httptools parses none that is longer than 64 KiB; a path's beginning tells whose it is.
_MAX_PARSED_URL = 8 * 1024
_VERSIONS = ("1.0", "1.1")
# Beyond max_connections there is room for those who ask whether the service is alive. They have to be quick.
RESERVE, _QUICK_S = 32, 2.0
# How long a client may go on sending what nobody reads, after the answer.
_LINGER_S = 30.0


class _Unhurried:
    """A transport that closes when the request has arrived.

    Closed in the middle of one, the kernel resets the connection, and the client may lose an answer not yet read.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def close(self) -> None:
        """Close when the request has arrived."""
        self._connection.close_after_request()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection.transport, name)


class Connection(HttpToolsProtocol):
    """A connection that :meth:`check` ends when its client lets it wait too long.

    Attributes:
        idle_since: loop time since when it waits for a next request; None while there is one.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        waiting: Waiting,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._settings: Settings = app_state["settings"]
        self._lifecycle: Lifecycle = app_state["lifecycle"]
        self._metrics: Metrics = app_state["metrics"]
        self._protocols: ProtocolTable = app_state["protocols"]
        self._waiting = waiting
        self.url = b""
        self.idle_since: float | None = None
        self._crowded = False
        self._head_since: float | None = None
        self._head_begun = False
        self._unheard_bytes = self._fields_bytes = 0
        self._heard = False
        self._refusal: ServiceError | None = None
        self._answered_since: float | None = None
        self._running: RequestResponseCycle | None = None
        self._closes = self._broken_off = False
        self._unsent = 0
        self._sends_since = self._taken_at = 0.0

    # -- arriving -----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Accept the connection, or refuse it where there are too many."""
        super().connection_made(transport)
        excess = len(self.connections) - self._settings.max_connections
        if excess > 0 and not self._makes_room():
            self._crowded = True
            if excess > RESERVE and not self._replaces(self._waiting.pop_late(inf)):
                self._end("crowded", _crowded())
        self._begin_head()

    def _makes_room(self) -> bool:
        """Take the place of a connection whose client has kept its head to itself for long, or of an idle one."""
        late = self._waiting.pop_late(self.loop.time() - _QUICK_S)
        return self._replaces(late or self._waiting.pop_idle())

    def _replaces(self, other: Connection | None) -> bool:
        """Take the place of another connection, if there is one."""
        if other is None:
            return False
        self._crowded = other._crowded
        if other.idle_since is None:
            other._end("crowded", _crowded())
        else:
            other.idle_since = None
            other.transport.close()
        return True

    def _begin_head(self) -> None:
        now = self.loop.time()
        self._head_since = self._head_since or now
        if self._waits_for_head():
            self._waiting.for_head(self, now)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and measure what it keeps to itself."""
        self._unset_keepalive_if_required()
        self.idle_since, self._heard = None, False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        if self._head_since is None and self._waits_for_head():
            self._begin_head()
        if not self._heard:
            self._unheard_bytes += len(data)
            if self._unheard_bytes > _MAX_HEAD_BYTES and (self._head_begun or not self._waits_for_head()):
                self._end("malformed", _head_too_large())

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The parser takes what follows the head for another protocol's. None is spoken here: it is the body.
            self.parser = httptools.HttpRequestParser(_Body(self))
            self.parser.feed_data(_framing(self.headers))
            self.parser.feed_data(data[upgrade.args[0] :])

    def on_message_begin(self) -> None:
        """Begin to measure a head."""
        cycle = self._cycle()
        if cycle is not None and not cycle.keep_alive:
            self.refuse(_not_http())  # the connection ends with the request before
        super().on_message_begin()
        self._head_begun, self._fields_bytes = True, 0
        self._hear()
        self._begin_head()

    def _hear(self) -> None:
        self._heard, self._unheard_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        """Measure the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Measure a header; drop trailers, which come after the body and which uvicorn takes for headers."""
        if self._head_begun:
            super().on_header(name, value)
        self._count(len(name) + len(value))

    def _count(self, size: int) -> None:
        self._fields_bytes += size + 4
        if self._fields_bytes > _MAX_HEAD_BYTES:
            self.refuse(_head_too_large())

    def refuse(self, error: ServiceError) -> NoReturn:
        """End the parsing; :meth:`send_400_response` answers with ``error``.

        Raises:
            ServiceError: always.
        """
        self._refusal = error
        raise error

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._head_since, self._head_begun, self._answered_since = None, False, None
        self._fields_bytes = 0
        self._waiting.leave(self)
        self._check_head()
        self.scope["state"]["crowded"] = self._crowded
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        self.cycle.transport = cast("asyncio.Transport", _Unhurried(self))
        upgrade = self.parser.should_upgrade() or any(name == b"upgrade" for name, _ in self.headers)
        if self._lifecycle.draining or self._crowded or self.expect_100_continue or upgrade:
            # Answered before its body, a client that expects "100 Continue" never sends it: what comes next is unclear.
            # So it is where the client offers another protocol, which a proxy in front may take for agreed upon.
            self.cycle.keep_alive = False
        if len(self.pipeline) > _MAX_PIPELINED:
            self._end("pipelined")
            self.refuse(_not_http())

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in _VERSIONS:
            self.refuse(_not_http())
        try:
            check_host(self.headers, version, self.url)
        except ServiceError as error:
            self.refuse(error)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a body."""
        self._hear()
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being answered; uvicorn tells the one that arrived last."""
        super().connection_lost(exc)
        self._waiting.leave(self)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def on_message_complete(self) -> None:
        """Close if only the rest of an answered request was waited for."""
        if self.parser.should_upgrade():
            return  # the head alone is complete; another parser has the body
        self._hear()
        super().on_message_complete()
        if self.cycle.response_complete:
            self.cycle.more_body = False
            self._answered_since = None
            if self._closes:
                self.transport.close()

    def on_response_complete(self) -> None:
        """Start to wait for the rest of the request if some is missing, otherwise for the next one."""
        if self.pipeline:
            self._running, _ = self.pipeline[-1]
            super().on_response_complete()
            return
        super().on_response_complete()
        if self.cycle.more_body:
            self._answered_since = self.loop.time()
        elif self._head_begun:
            self._begin_head()
        else:
            self.idle_since = self.loop.time()
            self._waiting.for_next(self, self.idle_since)

    def _waits_for_head(self) -> bool:
        cycle = self._cycle()
        return cycle is None or (cycle.response_complete and not cycle.more_body)

    def _cycle(self) -> RequestResponseCycle | None:
        """Return the latest request whose head has come; None if none has, which uvicorn's type leaves out."""
        return self.cycle

    # -- ending -------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Close the connection if its client takes too long over what it owes; called twice a second."""
        now = self.loop.time()
        head_s = _QUICK_S if self._crowded else self._settings.header_timeout_s
        linger_s = _QUICK_S if self._crowded else _LINGER_S
        if self._stands_still(now):
            self._end("unread")
        elif self._head_since is not None and self._waits_for_head() and now - self._head_since > head_s:
            late = RequestTimeout(f"The head of the request took longer than {head_s:g} s. Send it faster.")
            self._end("head", late if self._head_begun else None)
        elif self._answered_since is not None and now - self._answered_since > linger_s:
            self._end("linger")

    def _stands_still(self, now: float) -> bool:
        """Whether the client has read nothing of its answer for too long, or takes too long over all of it."""
        before, self._unsent = self._unsent, self.transport.get_write_buffer_size()
        if not before:
            self._sends_since = now
        if self._unsent != before:
            self._taken_at = now
        stalls = now - self._taken_at > self._settings.stall_timeout_s
        return self._unsent > 0 and (stalls or now - self._sends_since > self._settings.transfer_timeout_s)

    def shutdown(self) -> None:
        """Close now if idle, else after the next answer: what is just arriving may be a request. uvicorn calls this."""
        if self.idle_since is not None:
            self.transport.close()
        elif not self._waits_for_head():
            self.cycle.keep_alive = False

    def close_after_request(self) -> None:
        """Close now, or once the rest of the request has come; the client hears of it at once."""
        if self.cycle.more_body and not self.transport.is_closing():
            self._closes = True
            self.transport.write_eof()
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not understand; called by uvicorn."""
        del msg
        cycle = self._cycle()
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            cycle.keep_alive = False  # the request before it has its answer first
        elif self.pipeline or (cycle is not None and cycle.more_body and cycle.response_started):
            self._end("malformed")  # too late to say anything
        else:
            self._end("malformed", self._refusal or _not_http())

    def _end(self, reason: str, error: ServiceError | None = None) -> None:
        """Close the connection with an answer, or break it off without one."""
        if self._broken_off or (error is not None and self.transport.is_closing()):
            return
        self._metrics.connections_ended.labels(reason).inc()
        self._head_since, self._head_begun = None, False
        if error is None:
            log.debug("connection broken off: %s", reason)
            self._broken_off = True
            self.transport.abort()
            return
        request_id = str(ULID())
        log.info("%s %s before a request was read %s", status_of(error), error.code, request_id)
        self.transport.write(_answer(error, request_id, self._protocols.error_body(self._path())))
        self.transport.close()

    def _path(self) -> str:
        """Return the path of the request that is arriving, or the part of it that has come; empty if none has."""
        try:
            return unquote((httptools.parse_url(self.url[:_MAX_PARSED_URL]).path or b"").decode("latin-1"))
        except httptools.HttpParserInvalidURLError:
            return ""


class _Body:
    """What a parser tells of a body alone: it goes to the connection, and nothing behind it is read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._begun = False
        self.on_header, self.on_body = connection.on_header, connection.on_body
        self.on_message_complete = connection.on_message_complete

    def on_message_begin(self) -> None:
        """Begin the body; end the parsing where a second message begins."""
        if self._begun:
            self._connection.refuse(_not_http())
        self._begun = True


def _framing(headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return a head that says of its body what ``headers`` say, and nothing else."""
    names = (b"content-length", b"transfer-encoding")
    lines = [b"%s: %s\r\n" % (name, value) for name, value in headers if name in names]
    return b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(lines)


def _crowded() -> Overloaded:
    return Overloaded("Too many connections are open. Try again later.", retry_after_s=2)


def _head_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"The request's line and headers have more than {_MAX_HEAD_BYTES} bytes. Send fewer.")


def _not_http() -> InvalidRequest:
    return InvalidRequest("What was sent is not an HTTP/1.1 request. See that nothing on the way spoils it.")


def _answer(error: ServiceError, request_id: str, error_body: ErrorBody) -> bytes:
    body, media_type = error_body(error, request_id)
    headers = {
        "Content-Type": media_type,
        "Content-Length": str(len(body)),
        "X-Request-ID": request_id,
        **headers_for(error),
        **FOR_ERRORS,
        "Connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[status_of(error)] + lines.encode() + b"\r\n" + body
