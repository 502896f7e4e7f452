"""The application behind its real server, in this process: a socket on one side, a worker held by hand on the other."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.settings import ModelConfig, Settings
from service.web.app import PROTOCOLS, create_app
from service.web.server import Server
from tests.web.application import HOSTS, AnsweringWorker, Application, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from service.protocols import WireProtocol

PATIENCE_S = 20.0


class Listening:
    """A server that listens.

    Attributes:
        application: what it serves, with its fake worker.
        server: the server.
        ended: done once the server has ended.
        port: where it listens, on the loopback address.
    """

    def __init__(self, server: Server, ended: asyncio.Task[None], port: int) -> None:
        self.application = Application(server.config.app, server.lifespan.state)  # type: ignore[arg-type]
        self.server, self.ended, self.port = server, ended, port
        self._callers: list[Caller] = []

    async def call(self, data: bytes = b"", *, receive_buffer: int | None = None) -> Caller:
        """Open a connection and send ``data``."""
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        caller = Caller(*await asyncio.open_connection(sock=connection))
        self._callers.append(caller)
        await caller.send(data)
        return caller

    async def hang_up(self) -> None:
        """Close what callers left open."""
        for caller in self._callers:
            caller.close()
        await asyncio.gather(*(caller.writer.wait_closed() for caller in self._callers), return_exceptions=True)
        self._callers.clear()

    async def forget(self) -> None:
        """Make ready for the next test: nobody is connected, nothing is held back."""
        self.application.worker.held = False
        self.application.worker.finish()
        await self.hang_up()
        await until(lambda: not self.connections)

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Caller:
    """A client that sends bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        """Read the next answer."""
        async with asyncio.timeout(PATIENCE_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            named = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in named}
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(first.split()[1]), headers, body)

    async def trickle(self, data: bytes, pause_s: float) -> None:
        """Send ``data`` byte by byte, until it is sent or the server no longer wants it."""
        for byte in data:
            if self.reader.at_eof():
                return
            try:
                await self.send(bytes([byte]))
            except ConnectionError:
                return
            await asyncio.sleep(pause_s)

    async def rest(self) -> bytes:
        """Read until the server closes; nothing else ends it."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.writer.close()


@asynccontextmanager
async def listening(protocols: Sequence[WireProtocol] = PROTOCOLS, /, **settings: Any) -> AsyncIterator[Listening]:
    """Serve the model ``pets`` of a fake worker on a free port."""
    models = (ModelConfig(name="pets", architecture="shapes"),)
    chosen = Settings(port=0, **{"models": models, "decode_threads": 2, "allowed_hosts": HOSTS, **settings})
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = Server(create_app(chosen, launch=AnsweringWorker, protocols=protocols), chosen, port.set_result)
    ended = asyncio.create_task(server._serve())  # serve() would take this process's signals
    listening = Listening(server, ended, await port)
    try:
        await listening.application.explainer.settled()
        yield listening
    finally:
        await listening.hang_up()
        server.should_exit = True
        await asyncio.wait_for(ended, PATIENCE_S)


def head(path: str = "/api/v1/predict", method: str = "POST", **headers: str | int) -> bytes:
    """The head of a request."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\nHost: camserve.test\r\n{lines}\r\n".encode("latin-1")


def request(picture: bytes, path: str = "/api/v1/predict") -> bytes:
    """A whole request with ``picture`` as its body."""
    return head(path, content_type="image/png", content_length=len(picture)) + picture


LIVEZ = head("/livez", "GET")
