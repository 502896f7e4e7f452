"""Thousands of mixed requests, a good part of them bad, and whether the processes grow."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from benchmarks.over_http import scene_jpeg
from benchmarks.sockets import Connections, Usage, head, server_port, usage
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server import Server

_CLIENTS = 8
_SAMPLES = 40
_LAYERS = ("", "layer=layer4", "layer=layer3", "layer=layer2&layer=layer4")
_METHODS = ("", "method=gradcam%2B%2B", "method=layercam", "method=eigencam", "method=gradcam&method=xgradcam")
_OPTIONS = ("", "target=top-3", "output=map", "output=overlay&output=regions", "signed=true", "smooth=4", "top_k=1")
_PATHS = ("explain", "models/shapes-shortcut/explain", "explain", "predict", "models/shapes-shortcut/predict")
_WRONG = ("layer=nowhere", "method=magic", "target=unicorn", "alpha=7")


@dataclass(frozen=True)
class Soak:
    """What came of it.

    Attributes:
        statuses: how often which status came; 0 for requests that were given up.
        seconds: how long it took.
        front, worker: what they held, at regular distances.
    """

    statuses: Counter[int]
    seconds: float
    front: list[Usage]
    worker: list[Usage]


def soak(requests: int, seed: int = 0) -> Soak:
    """Send ``requests`` mixed requests, eight at a time."""
    with running_server("--log-level=error") as server:
        (worker,) = httpx.get(f"{server.url}/readyz").json()["workers"]
        return asyncio.run(_run(server, worker["pid"], requests, seed))


def growth_mb(samples: list[Usage]) -> float:
    """Median RSS of the last quarter, less that of the second: the first is the warm-up."""
    quarter = len(samples) // 4
    second, last = samples[quarter : 2 * quarter], samples[-quarter:]
    return _median_mb(last) - _median_mb(second)


def _median_mb(samples: list[Usage]) -> float:
    return sorted(sample.rss_mb for sample in samples)[len(samples) // 2]


async def _run(server: Server, worker_pid: int, requests: int, seed: int) -> Soak:
    connections = Connections(server_port(server))
    mixed = itertools.islice(_mixed(seed), requests)
    soaked = Soak(Counter(), 0.0, [], [])
    began = time.perf_counter()

    async def client() -> None:
        for request, patience_s in mixed:
            soaked.statuses[await _ask(connections, request, patience_s)] += 1
            if soaked.statuses.total() % max(1, requests // _SAMPLES) == 0:
                soaked.front.append(usage(server.process.pid))
                soaked.worker.append(usage(worker_pid))

    await asyncio.gather(*(client() for _ in range(_CLIENTS)))
    connections.close()
    return Soak(soaked.statuses, time.perf_counter() - began, soaked.front, soaked.worker)


async def _ask(connections: Connections, request: bytes, patience_s: float) -> int:
    try:
        async with asyncio.timeout(patience_s):
            return (await connections.ask(request)).status
    except TimeoutError:
        return 0  # the connection is closed under the server


def _mixed(seed: int) -> Iterator[tuple[bytes, float]]:
    """Yield requests, and how long their client waits."""
    chance = random.Random(seed)
    pictures = [scene_jpeg(width, height) for width, height in ((64, 64), (192, 128), (320, 240))]
    while True:
        picture = chance.choice(pictures)
        if chance.random() < 0.05:
            picture = picture[: len(picture) // 2]
        elif chance.random() < 0.05:
            picture = chance.randbytes(2000)
        path = chance.choice(_PATHS)
        asked = [chance.choice(_LAYERS), chance.choice(_METHODS), chance.choice(_OPTIONS)]
        if "predict" in path:
            asked = []
        if chance.random() < 0.05:
            asked = [chance.choice(_WRONG)]
        request = chance.choice((_raw, _form, _json))(f"/api/v1/{path}?{'&'.join(filter(None, asked))}", picture)
        if chance.random() < 0.02:
            request = head("/metrics")
        if chance.random() < 0.1:
            request = request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
        yield request, chance.uniform(0.0, 0.03) if chance.random() < 0.1 else 60.0


def _raw(path: str, picture: bytes) -> bytes:
    return head(path, len(picture), "image/jpeg") + picture


def _form(path: str, picture: bytes) -> bytes:
    part = b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + picture + b"\r\n"
    body = 2 * part + b"--B--\r\n"
    return head(path, len(body), "multipart/form-data; boundary=B") + body


def _json(path: str, picture: bytes) -> bytes:
    body = json.dumps({"images": [{"b64": base64.b64encode(picture).decode()}]}).encode()
    return head(path, len(body), "application/json") + body


def ten_thousand_mixed_requests() -> Iterator[str]:
    """Embedded models, small pictures, every encoding; bad ones and ones given up."""
    ran = soak(10_000)
    counts = ", ".join(f"{status or 'given up'} × {count}" for status, count in sorted(ran.statuses.items()))
    yield f"{ran.statuses.total()} requests in {ran.seconds:.0f} s: {counts}"
    for name, samples in (("front", ran.front), ("worker", ran.worker)):
        yield (
            f"{name}: {samples[0].rss_mb:.0f} MB at the start, {samples[-1].rss_mb:.0f} MB at the end, "
            f"{growth_mb(samples):+.1f} MB from the second quarter to the last"
        )
