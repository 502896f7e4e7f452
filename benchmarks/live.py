"""Live requests beside an evaluation of the same model: how much longer they take.

Requests come at a fixed rate, whether those before are answered or not, and count from when they should have come.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING

import httpx

from benchmarks.over_http import scene_jpeg
from benchmarks.results import at_most
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Line

_MODEL = "--model=squeezenet1_0:random"
_SETTINGS = (_MODEL, "--log-level=warning")
_RATE = 20.0
_WARM_UP_S, _MEASURED_S, _ROUNDS = 3.0, 10.0, 2
_PICTURES = 60
_LIVE = "/api/v1/explain?output=regions"
_EVALUATIONS = "/api/v1/evaluations"


def live_beside_an_evaluation() -> Iterator[Line]:
    """20 requests a second, by turns alone and beside an evaluation with one CPU thread, and with two."""
    for threads in (1, 2):
        with running_server(*_SETTINGS, f"--evaluation-threads={threads}") as server:
            alone, beside, done = asyncio.run(_by_turns(server.url))
        ratio = _at(beside, 0.99) / _at(alone, 0.99)
        yield at_most(
            2.0,
            ratio,
            f"{threads} thread{'s'[: threads - 1]}: alone p50 {_ms(alone, 0.5)}, p99 {_ms(alone, 0.99)}; beside p50 "
            f"{_ms(beside, 0.5)}, p99 {_ms(beside, 0.99)} ({ratio:.2f} ×); "
            f"{done:.0%} of an evaluation in {_ROUNDS * _MEASURED_S:.0f} s",
        )


async def _by_turns(url: str) -> tuple[list[float], list[float], float]:
    """Return the sorted seconds of requests alone and beside an evaluation, and how much of that was done."""
    alone: list[float] = []
    beside: list[float] = []
    done = 0.0
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await _ask(client, _WARM_UP_S)
        for _ in range(_ROUNDS):
            alone += await _ask(client, _MEASURED_S)
            evaluation = await _evaluation(client)
            began = await _progress(client, evaluation)
            beside += await _ask(client, _MEASURED_S)
            done += await _progress(client, evaluation) - began
            await client.delete(f"{_EVALUATIONS}/{evaluation}")
    return sorted(alone), sorted(beside), done


async def _evaluation(client: httpx.AsyncClient) -> str:
    """Begin one, and return when its model is loaded."""
    picture = scene_jpeg()
    files = [("image", (f"{number}.jpg", picture, "image/jpeg")) for number in range(_PICTURES)]
    evaluation: str = (await client.post(_EVALUATIONS, files=files)).raise_for_status().json()["id"]
    while not await _progress(client, evaluation):  # noqa: ASYNC110  # it is another process's
        await asyncio.sleep(0.2)
    return evaluation


async def _progress(client: httpx.AsyncClient, evaluation: str) -> float:
    found = (await client.get(f"{_EVALUATIONS}/{evaluation}")).raise_for_status().json()
    assert found["state"] in {"queued", "running"}, found
    return float(found["progress"])


async def _ask(client: httpx.AsyncClient, seconds: float) -> list[float]:
    """Ask at the rate; return how long each took."""
    picture, began = scene_jpeg(), time.perf_counter()

    async def one(due: float) -> float:
        (await client.post(_LIVE, content=picture, headers={"Content-Type": "image/jpeg"})).raise_for_status()
        return time.perf_counter() - due

    tasks: list[asyncio.Task[float]] = []
    for number in count():
        due = began + number / _RATE
        if due > began + seconds:
            return list(await asyncio.gather(*tasks))
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(due)))
    raise AssertionError("it counts for ever")


def _at(times: list[float], quantile: float) -> float:
    return times[min(len(times) - 1, int(quantile * len(times)))]


def _ms(times: list[float], quantile: float) -> str:
    return f"{1000 * _at(times, quantile):.0f} ms"
