"""Legal requests in awkward amounts, by a client of their own: nobody else may notice them."""

from __future__ import annotations

import asyncio
import io
import json
import math
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import httpx
from PIL import Image

from tests.faults import picture

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from service.settings import Settings
    from tests.chaos.small import SmallRequests

__all__ = ["AMOUNTS", "Crowd", "front_bound", "percentile"]

# What small requests should take beside large ones: three times what they take in quiet, or a slice of large work more.
_TIMES, _SLICE_S = 3.0, 0.15
_QUIET_S = 10.0
# What is documented of requests that ask for too much, or for nonsense.
_SAID = {400, 401, 404, 405, 408, 411, 413, 414, 415, 422, 429, 431, 503, 504}


def percentile(seconds: list[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed."""
    return sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)]


def front_bound(settings: Settings) -> int:
    """Return how many bytes the front process takes at most: the sum in docs/operations.md."""
    megabyte = 1024 * 1024
    bodies = settings.max_inflight_bytes * 9 // 8 + 6 * settings.max_body_bytes
    canvases = 3 * megabyte * settings.max_queue + 3 * settings.max_open_pixels
    kept = 64 * megabyte * (settings.decode_threads + 1)
    drawn = 32 * (settings.max_open_pixels + 4_000_000)
    return 100 * megabyte + bodies + drawn + canvases + kept + 2 * settings.max_total_cost.bytes


@contextmanager
def during(spans: list[tuple[float, float]]) -> Iterator[None]:
    """Note when the block ran."""
    began = time.monotonic()
    try:
        yield
    finally:
        spans.append((began, time.monotonic()))


@dataclass
class Crowd:
    """Clients that ask for much, and one beside them that asks for little all the time.

    Attributes:
        url: of the server.
        bulk: the headers of those that ask for much.
        small: what the other's requests took.
        rng: what is chosen by chance.
        quiet: when nothing was beside the small requests, in seconds of ``time.monotonic``.
        crowded: when there was much beside them.
    """

    url: str
    bulk: Mapping[str, str]
    small: SmallRequests
    rng: random.Random
    quiet: list[tuple[float, float]] = field(default_factory=list)
    crowded: list[tuple[float, float]] = field(default_factory=list)

    async def listen(self) -> None:
        """Learn what small requests take in quiet."""
        with during(self.quiet):
            await asyncio.sleep(_QUIET_S)

    def verdict(self) -> str:
        """Say what small requests took, and what they should: no promise, as all of them share this machine's cores."""
        quiet, crowded = (percentile(self.small.seconds(spans), 0.99) for spans in (self.quiet, self.crowded))
        aim = max(_TIMES * quiet, quiet + _SLICE_S)
        times = f"{crowded * 1000:.0f} ms, in quiet {quiet * 1000:.0f} ms; the aim is {aim * 1000:.0f} ms"
        return f"p99 of small requests beside large ones: {times}"

    async def post(
        self, options: Mapping[str, Any], images: list[bytes], patience_s: float = 60, deadline_ms: int = 30_000
    ) -> int:
        """Ask for much; return the status of the answer."""
        files = [("image", (f"{i}.png", data, "image/png")) for i, data in enumerate(images)]
        headers = {**self.bulk, "X-Request-Timeout-Ms": str(deadline_ms)}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, timeout=patience_s) as client:
            return (await client.post("/api/v1/explain", params=options, files=files)).status_code


@cache
def _flat(side: int) -> bytes:
    """Draw many pixels in few bytes."""
    stream = io.BytesIO()
    Image.new("L", (side, side), 128).save(stream, "PNG")
    return stream.getvalue()


def _unless(statuses: list[int]) -> list[str]:
    return [f"a status of {status}" for status in statuses if status != 200 and status not in _SAID]


async def bulk_clients(crowd: Crowd) -> list[str]:
    """Requests of many pictures, targets and methods, again and again."""
    asked = {"method": ("eigengradcam", "layercam", "gradcam"), "target": "top-4", "layer": ("body.0", "body.4")}
    with during(crowd.crowded):
        statuses = [
            status
            for _ in range(3)
            for status in await asyncio.gather(
                *(crowd.post(asked, [picture(seed) for seed in range(16)]) for _ in range(4))
            )
        ]
    return _unless(statuses)


async def leavers(crowd: Crowd) -> list[str]:
    """Large pictures with many large maps, and nobody waits for them."""
    asked = {"method": ("gradcam", "hirescam"), "target": "top-4", "output": ("heatmap", "overlay", "mask")}
    large = _flat(4000)
    with during(crowd.crowded):
        for _ in range(3):
            wait = crowd.rng.uniform(0.2, 1.5)
            left = (crowd.post(asked | {"max_side": 3000}, [large], patience_s=wait) for _ in range(4))
            await asyncio.gather(*left, return_exceptions=True)
    return []


async def readers_that_stop(crowd: Crowd) -> list[str]:
    """Large answers that nobody takes."""
    asked = urlencode({"output": "overlay", "image_format": "png", "target": "top-4", "max_side": 2000})
    body = _flat(3000)
    address = urlsplit(crowd.url)
    lines = [f"POST /api/v1/explain?{asked} HTTP/1.1", f"Host: {address.netloc}", "Content-Type: image/png"]
    lines += [f"{name}: {value}" for name, value in crowd.bulk.items()] + [f"Content-Length: {len(body)}", "", ""]
    held = []
    with during(crowd.crowded):
        for _ in range(8):
            connection = socket.create_connection((address.hostname, address.port), timeout=30)
            connection.sendall("\r\n".join(lines).encode() + body)
            held.append(connection)
        await asyncio.sleep(4)
    for connection in held:
        connection.close()
    return []


async def long_deadlines(crowd: Crowd) -> list[str]:
    """Slow methods whose clients would wait for an hour, and drawing of thousands of pixels behind them."""
    asked = {"method": ("scorecam", "ablationcam", "smoothgradcam++"), "smooth": 8, "max_side": 4000}
    with during(crowd.crowded):
        posts = (crowd.post(asked, [_flat(3000)], deadline_ms=3_600_000, patience_s=400) for _ in range(4))
        statuses = await asyncio.gather(*posts)
    return _unless(statuses)


async def awkward_amounts(crowd: Crowd) -> list[str]:
    """More of everything than makes sense: names, values, parts, pictures, digits, characters of base64."""
    statuses = []
    requests = _awkward(crowd.rng)
    async with httpx.AsyncClient(headers=crowd.bulk, timeout=60) as client:
        with during(crowd.crowded):
            for options, sent in requests:
                try:
                    answered = await client.post(f"{crowd.url}/api/v1/explain", params=options, **sent)
                except httpx.TransportError:
                    continue  # refused by its head, with the body still on its way
                statuses.append(answered.status_code)
    return _unless(statuses)


def _awkward(rng: random.Random) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    good = {"files": {"image": picture(1)}}
    many = rng.randint(1000, 4000)
    base64 = "AA " * rng.randint(100_000, 3_000_000)
    json_type = {"Content-Type": "application/json"}
    return [
        ({f"n{i}": "" for i in range(many)}, good),
        ({"target": [str(i) for i in range(many)]}, good),
        ({"method": ["gradcam"] * many}, good),
        ({"layer": ["body.0"] * 64, "method": "scorecam", "target": "top-4"}, good),
        ({"target": "9" * many}, good),
        ({"max_side": 8192, "output": ["heatmap", "overlay", "mask"]}, {"files": {"image": _flat(8000)}}),
        ({}, {"files": [("image", (f"{i}", b"", "image/png")) for i in range(many)]}),
        ({}, {"data": {f"n{i}": "x" for i in range(many)}, "files": {"image": picture(1)}}),
        ({}, {"json": {"images": [{"b64": base64}]}}),
        ({}, {"json": {"images": [{"b64": "AA"}] * many}}),
        (
            {},
            {"content": json.dumps({f"n{i}": i for i in range(many)}), "headers": json_type},
        ),
        ({}, {"content": b"[" * many, "headers": json_type}),
    ]


AMOUNTS: dict[str, Callable[[Crowd], Awaitable[list[str]]]] = {
    "bulk clients": bulk_clients,
    "leavers": leavers,
    "readers that stop": readers_that_stop,
    "long deadlines": long_deadlines,
    "awkward amounts": awkward_amounts,
}
