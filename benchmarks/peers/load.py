"""Clients that each wait for their answer: one process, bodies made beforehand, raw sockets."""

from __future__ import annotations

import asyncio
import io
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.sockets import Connections, Reply, head
from service.demo.scenes import make_scene

if TYPE_CHECKING:
    from collections.abc import Sequence

_PICTURES = 16


@dataclass(frozen=True)
class Served:
    """What a server did for its clients.

    Attributes:
        per_second: answers a second, while all clients asked.
        seconds: of each request, sorted.
    """

    per_second: float
    seconds: list[float]

    def at(self, quantile: float) -> float:
        """Return seconds that this share of the requests took at most."""
        return self.seconds[min(len(self.seconds) - 1, int(quantile * len(self.seconds)))]


def uploads(path: str) -> list[bytes]:
    """Return whole requests, a form with a 500×375 JPEG each, as a browser sends it."""
    rng = np.random.default_rng(0)
    return [_upload(path, _jpeg(rng, number)) for number in range(_PICTURES)]


def _jpeg(rng: np.random.Generator, number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(make_scene(rng, number % 12, size=(500, 375)).pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _upload(path: str, picture: bytes) -> bytes:
    part = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = part + picture + b"\r\n--B--\r\n"
    return head(path, len(body), "multipart/form-data; boundary=B", "application/json") + body


async def ask(port: int, request: bytes) -> Reply:
    """Ask once over a connection of its own."""
    connections = Connections(port)
    try:
        return await connections.ask(request)
    finally:
        connections.close()


async def load(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Served:
    """Let ``clients`` ask again and again for ``seconds``.

    Raises:
        RuntimeError: an answer is none.
    """
    connections, mixed = Connections(port), itertools.cycle(requests)
    began = time.perf_counter()
    answered: list[tuple[float, float]] = []  # when, and after how many seconds

    async def client() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            reply = await connections.ask(next(mixed))
            if reply.status != 200:
                raise RuntimeError(f"{reply.status}: {reply.body[:300]!r}")
            answered.append((time.perf_counter() - began, time.perf_counter() - sent))

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
    finally:
        connections.close()
    within = sum(when <= seconds for when, _ in answered)
    # Where each takes longer than that, at least those who waited are counted, by how long they did.
    per_second = within / seconds if within else len(answered) / (time.perf_counter() - began)
    return Served(per_second, sorted(took for _, took in answered))
