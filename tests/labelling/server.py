"""A server that gives whole responses, byte by byte as tests say."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PICTURE = b"picture" * 100


class Server:
    """A server on this machine that answers by path, and notes what it was sent.

    Attributes:
        heads: of the requests, as text.
        answers: by path, a whole response, or None to say nothing.
    """

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.answers: dict[str, bytes | None] = {}
        self.url = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        answer = self.answers.get(head.split(" ")[1], response(404))
        if answer is None:
            await reader.read()  # until the client goes away
        else:
            writer.write(answer)
        writer.close()


def response(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", "Connection: close"]
    named = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines += [f"{name}: {value}" for name, value in named.items() if value]
    return "\r\n".join([*lines, "", ""]).encode() + body
