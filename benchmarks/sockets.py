"""A small HTTP client that costs little beside the server that it measures, and a look at processes from outside."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.server import Server

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    """Read a body of unknown length, as large answers are sent."""
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


class Connections:
    """Keeps connections and uses them again, as clients do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request and read its answer."""
        async with self.opened() as (reader, writer):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            chunked = headers.get("transfer-encoding") == "chunked"
            body = await (_chunks(reader) if chunked else reader.readexactly(int(headers["content-length"])))
            reply = Reply(int(first.split()[1]), headers, body)
            if headers.get("connection") != "close":
                self._idle.append((reader, writer))
        return reply

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Lend an idle connection or a new one; it is closed unless it was put back."""
        kept = self._idle.pop() if self._idle else None
        reader, writer = kept or await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            if (reader, writer) not in self._idle:
                writer.close()

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


def server_port(server: Server) -> int:
    """Where it listens."""
    port = httpx.URL(server.url).port
    assert port is not None
    return port


def head(path: str, length: int = 0, content_type: str = "image/png", accept: str = "*/*") -> bytes:
    """The head of a POST, or of a GET where there is no body."""
    method, body = ("POST", f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n") if length else ("GET", "")
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n{body}\r\n".encode()


@dataclass(frozen=True)
class Usage:
    """What a process holds, and the CPU seconds that it has used."""

    rss_mb: float
    descriptors: int
    threads: int
    cpu_s: float


def usage(pid: int) -> Usage:
    """Look at a process; Linux only."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
    return Usage(
        rss_mb=int(status["VmRSS"].split()[0]) / 1024,
        descriptors=len(list((folder / "fd").iterdir())),
        threads=int(status["Threads"]),
        cpu_s=sum(map(int, ticks)) / _TICKS,
    )
