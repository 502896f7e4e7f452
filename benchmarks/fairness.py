"""Small requests of one client beside the large ones of others: how long the small ones wait.

Clients come from addresses of their own, since a service without keys tells them by these. They take turns in asking,
each one request at a time, and the bulk clients never pause.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.over_http import scene_jpeg
from benchmarks.results import at_most
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.results import Line

_MODELS = ("--model=squeezenet1_0:random", "--model=shapes")
_SETTINGS = (*_MODELS, "--max-explanations=64", "--request-timeout-s=300", "--log-level=warning")
_WARM_UP_S, _QUIET_S, _MIXED_S = 3.0, 20.0, 60.0
# The small client asks ten times a second at most, as somebody who moves through pictures would.
_PAUSE_S = 0.05

SMALL = {
    "predict": "/api/v1/predict",
    "explain": "/api/v1/explain?output=regions",
    "predict, other model": "/api/v1/models/shapes/predict",
}


@dataclass(frozen=True)
class _Bulk:
    """What a bulk client asks for again and again."""

    path: str
    pictures: int
    query: Mapping[str, Any]


_EARLY = {"method": "eigengradcam", "layer": "features.0", "target": "top-32", "output": "regions"}

BULK = {
    "16 pictures × 32 targets of eigengradcam at an early layer": _Bulk("/api/v1/explain", 16, _EARLY),
    "Score-CAM": _Bulk("/api/v1/explain", 1, {"method": "scorecam", "output": "regions"}),
    "32 pictures to predict": _Bulk("/api/v1/predict", 32, {}),
    "32 pictures to explain": _Bulk("/api/v1/explain", 32, {"output": "regions"}),
}


@dataclass(frozen=True)
class Waits:
    """Seconds that each small request took, sorted, by its name; and answers of the bulk clients, by status."""

    small: dict[str, list[float]]
    bulk: dict[str, list[int]]


def small_beside_bulk() -> Iterator[str | Line]:
    """The named mix on a server with two models."""
    with running_server(*_SETTINGS) as server:
        asyncio.run(_measure(server.url, {}, _WARM_UP_S))
        quiet = asyncio.run(_measure(server.url, {}, _QUIET_S))
        mixed = asyncio.run(_measure(server.url, BULK, _MIXED_S))
    for name in SMALL:
        before, beside = quiet.small[name], mixed.small[name]
        allowed = max(3 * _at(before, 0.99), _at(before, 0.99) + 0.15)
        text = (
            f"{name}: quiet p50 {_ms(before, 0.5)}, p99 {_ms(before, 0.99)}; mixed p50 {_ms(beside, 0.5)}, "
            f"p99 {_ms(beside, 0.99)} ({_at(beside, 0.99) / _at(before, 0.99):.1f} ×)"
        )
        yield at_most(round(1000 * allowed), 1000 * _at(beside, 0.99), text, "ms")
    for name, statuses in mixed.bulk.items():
        yield f"beside it, {name}: {statuses.count(200)} answered, {len(statuses) - statuses.count(200)} refused"


async def _measure(url: str, bulk: Mapping[str, _Bulk], seconds: float) -> Waits:
    """Ask for ``seconds``."""
    waits = Waits({name: [] for name in SMALL}, {name: [] for name in bulk})
    tasks = [
        asyncio.create_task(_ask_for_much(url, f"127.0.0.{number}", asked, waits.bulk[name]))
        for number, (name, asked) in enumerate(bulk.items(), start=2)
    ]
    await asyncio.sleep(2.0 if tasks else 0.0)
    await _ask_for_little(url, waits, time.perf_counter() + seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for times in waits.small.values():
        times.sort()
    return waits


async def _ask_for_little(url: str, waits: Waits, end: float) -> None:
    picture = scene_jpeg()
    async with _client(url, "127.0.0.1") as client:
        for name, path in cycle(SMALL.items()):
            if time.perf_counter() > end:
                return
            began = time.perf_counter()
            (await client.post(path, content=picture, headers={"Content-Type": "image/jpeg"})).raise_for_status()
            waits.small[name].append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE_S)


async def _ask_for_much(url: str, address: str, asked: _Bulk, statuses: list[int]) -> None:
    files = [("image", (f"{number}.jpg", scene_jpeg(), "image/jpeg")) for number in range(asked.pictures)]
    async with _client(url, address) as client:
        while True:
            answer = await client.post(asked.path, files=files, params=dict(asked.query))
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                await asyncio.sleep(1.0)


def _client(url: str, address: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=300, transport=httpx.AsyncHTTPTransport(local_address=address))


def _at(times: list[float], quantile: float) -> float:
    return times[min(len(times) - 1, int(quantile * len(times)))]


def _ms(times: list[float], quantile: float) -> str:
    return f"{1000 * _at(times, quantile):.0f} ms"
