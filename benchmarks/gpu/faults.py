"""What becomes of everybody else when a GPU fails one picture, and of a batch that does not fit into its memory."""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from typing import TYPE_CHECKING

import httpx
import numpy as np
from PIL import Image

from benchmarks.gpu.networks import FRAGILE, HUNGRY, SIDE
from benchmarks.results import Line
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENTS, _REQUESTS, _RED, _TOGETHER = 8, 400, 3, 32
# On a CPU the same picture is an IndexError, which harms no worker, and everything fits.
_CPU = "cpu"


def a_picture_that_fails_the_device(device: str) -> Iterator[Line]:
    """Eight clients ask without pause, and three pictures among theirs end in a device-side assert."""
    settings = (f"--device={device}", "--workers=1", "--request-timeout-s=120", "--log-level=error")
    with running_server(f"--model={FRAGILE}", *settings) as server:
        before = _workers(server.url)
        good, red = asyncio.run(_red_among_others(server.url))
        replaced = _counted(server.url, "camserve_worker_restarts_total")
        after = _workers(server.url)
    yield Line(
        f"a device-side assert under load: {_said(good)} for the others, {_said(red)} for those that fail; "
        f"workers replaced {replaced:.0f} times, {len(after - before)} new one",
        "all others answered, a worker replaced",
        good.total() == good[200] and 200 not in red and (replaced > 0 or device == _CPU),
    )


def a_batch_too_large_for_the_memory(device: str) -> Iterator[Line]:
    """One request of 32 pictures, of which nine fit into the GPU's memory."""
    files = [("image", (f"{number}.png", _png(number), "image/png")) for number in range(_TOGETHER)]
    with running_server(
        f"--model={HUNGRY}", f"--device={device}", "--max-batch-size=32", "--log-level=error"
    ) as server:
        answer = httpx.post(f"{server.url}/api/v1/explain?output=map", files=files, timeout=120)
        splits = _counted(server.url, "camserve_batch_splits_total")
        alive = _counted(server.url, "camserve_worker_restarts_total") == 0
    answered = sum("predictions" in result for result in answer.json()["results"]) if answer.is_success else 0
    yield Line(
        f"out of memory: {answered} of {_TOGETHER} pictures of one request answered, batches cut in two {splits:.0f} "
        f"times, the worker {'went on' if alive else 'was replaced'}",
        "all answered, batches cut, the same worker",
        answered == _TOGETHER and alive and (splits > 0 or device == _CPU),
    )


async def _red_among_others(url: str) -> tuple[Counter[int], Counter[int]]:
    """Return how often which status came, for the pictures of others and for those that fail."""
    good: Counter[int] = Counter()
    red: Counter[int] = Counter()
    waiting = iter(range(_REQUESTS))
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def ask(picture: bytes, statuses: Counter[int]) -> None:
            headers = {"Content-Type": "image/png"}
            statuses[
                (await client.post("/api/v1/explain?output=map", content=picture, headers=headers)).status_code
            ] += 1

        async def asks() -> None:
            for number in waiting:
                fails = number % (_REQUESTS // _RED) == _REQUESTS // _RED // 2
                await ask(_png(None if fails else number), red if fails else good)

        await asyncio.gather(*(asks() for _ in range(_CLIENTS)))
    return good, red


def _png(number: int | None) -> bytes:
    """Draw noise; without a number, a picture that is red all over."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    if number is None:
        pixels[:, :, 0] = 255
    else:
        pixels[:] = np.random.default_rng(number).integers(0, 256, pixels.shape, np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def _said(statuses: Counter[int]) -> str:
    return ", ".join(f"{status} × {count}" for status, count in sorted(statuses.items()))


def _workers(url: str) -> set[int]:
    return {worker["pid"] for worker in httpx.get(f"{url}/readyz").json()["workers"]}


def _counted(url: str, metric: str) -> float:
    """Add up a metric's series."""
    values = re.findall(rf"^{metric}(?:\{{.*\}})? (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
    return sum(map(float, values))
