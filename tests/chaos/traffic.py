"""Requests like those of many users at once, and the judgement of every answer.

Arrivals are open-loop: a request is sent when its time has come, whether or not earlier ones were answered.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import httpx
import numpy as np

from tests.faults import picture

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from numpy.typing import NDArray

MODELS = ("first", "second")
LAYERS = ("body.2", "body.4")
METHODS = ("gradcam", "layercam", "eigencam")
SLOW_METHOD = "scorecam"
REFUSED_MODEL = "dependent"
TOLERANCE = 1e-4
# Longer than any deadline of the server: what takes longer was forgotten.
PATIENCE_S = 180.0

Verdict = Literal["right", "error", "wrong", "lost"]

# What a request without any fault of its own may be told while others' faults are on.
EXCUSES = {"overloaded", "not_ready", "deadline_exceeded", "internal_error"}


@dataclass(frozen=True)
class Asked:
    """A request: which pictures, and what of them. ``files`` are more pictures, known to be faulty."""

    model: str = MODELS[0]
    layer: str = LAYERS[0]
    method: str = METHODS[0]
    seeds: tuple[int, ...] = (0,)
    files: tuple[bytes, ...] = ()
    json: bool = False


@dataclass
class Answered:
    """What came of a request.

    Attributes:
        verdict: ``right``: all pictures without a fault have the map that they get alone and in quiet. ``error``: a
            documented refusal, in whole or for some of them. ``wrong``, ``lost``: what must never be.
        code: of the refusal.
        why: what is wrong.
        codes: of the faulty ``files``, in order: their error, or None.
    """

    verdict: Verdict
    code: str | None = None
    why: str = ""
    status: int = 0
    codes: list[str | None] = field(default_factory=list)
    retry_after: str | None = None


class Traffic:
    """Sends requests to a server and judges the answers by those of quiet times.

    Attributes:
        during: the fault that is on, under which answers are counted.
        counts: fault → verdict → how many answers.
        complaints: what was wrong or lost.
    """

    def __init__(
        self, url: str, rng: random.Random, headers: Mapping[str, str] | None = None, pictures: int = 24
    ) -> None:
        # A connection of its own for every request: one that is kept alive may be closed just when it is used again,
        # and then nobody can tell whether the request was lost.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.client = httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits, headers=headers)
        self.rng = rng
        self.in_flight = 0
        self.sent = 0
        self.answered = 0
        self.during = "none"
        self.counts: dict[str, Counter[Verdict]] = {}
        self.codes: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.images = {seed: picture(seed) for seed in range(pictures)}
        self._quiet: dict[tuple[str, int, str, str], NDArray[np.float32]] = {}

    async def learn(self) -> None:
        """Ask for every picture alone and in quiet: that is what is right from now on."""
        for model in MODELS:
            for seed, data in self.images.items():
                form = {"layer": list(LAYERS), "method": [*METHODS, SLOW_METHOD], "output": "map"}
                path = f"/api/v1/models/{model}/explain"
                response = await self.client.post(path, files={"image": ("p.png", data)}, data=form)
                response.raise_for_status()
                for explanation in response.json()["results"][0]["explanations"]:
                    self._quiet[model, seed, explanation["layer"], explanation["method"]] = _array(explanation["map"])

    def any_request(self) -> Asked:
        """Draw a request as users send them."""
        rng = self.rng
        seeds = tuple(rng.sample(sorted(self.images), rng.choice((1, 1, 1, 2, 4))))
        return Asked(rng.choice(MODELS), rng.choice(LAYERS), rng.choice(METHODS), seeds, json=rng.random() < 0.3)

    async def ask(self, asked: Asked, timeout_ms: int | None = None) -> Answered:
        """Send a request, judge its answer, and count it under the fault that was on before or after."""
        self.sent += 1
        self.in_flight += 1
        before = self.during
        try:
            answered = self.judge(asked, await self._send(asked, timeout_ms))
        except httpx.ConnectError:  # never accepted, which no promise is about
            answered = Answered("error", code="connection_refused")
        except httpx.HTTPError as error:
            answered = Answered("lost", why=repr(error))
        finally:
            self.in_flight -= 1
        self._count(self.during if before == "none" else before, answered)
        return answered

    def _count(self, during: str, answered: Answered) -> None:
        self.answered += 1
        self.counts.setdefault(during, Counter())[answered.verdict] += 1
        if answered.code:
            self.codes[answered.code] += 1
        if answered.verdict in {"wrong", "lost"}:
            self.complaints.append(f"{during}: {answered.verdict}: {answered.why}")

    async def _send(self, asked: Asked, timeout_ms: int | None) -> httpx.Response:
        files = [self.images[seed] for seed in asked.seeds] + list(asked.files)
        options: dict[str, Any] = {"layer": [asked.layer], "method": [asked.method], "output": ["map"]}
        headers = {"X-Request-Timeout-Ms": str(timeout_ms)} if timeout_ms else {}
        path = f"/api/v1/models/{asked.model}/explain"
        if asked.json:
            images = [{"b64": base64.b64encode(data).decode()} for data in files]
            return await self.client.post(path, json={"images": images, **options}, headers=headers)
        parts = [("image", (f"{index}.png", data, "image/png")) for index, data in enumerate(files)]
        return await self.client.post(path, files=parts, data=options, headers=headers)

    def judge(self, asked: Asked, response: httpx.Response) -> Answered:
        """Compare an answer with those of quiet times."""
        if response.status_code != 200:
            return _refused(response)
        results = response.json()["results"]
        if len(results) != len(asked.seeds) + len(asked.files):
            return Answered("wrong", why=f"{len(results)} results for {asked}")
        codes = [(result["error"] or {}).get("code") for result in results]
        ours, theirs = codes[: len(asked.seeds)], codes[len(asked.seeds) :]
        for seed, result, code in zip(asked.seeds, results, codes, strict=False):
            if code is None and (why := self._difference(asked, seed, result)):
                return Answered("wrong", why=why)
        failed = [code for code in ours if code is not None]
        if unknown := set(failed) - EXCUSES:
            return Answered("wrong", why=f"unexpected errors {unknown} for {asked}")
        return Answered("error" if failed else "right", failed[0] if failed else None, status=200, codes=theirs)

    def _difference(self, asked: Asked, seed: int, result: dict[str, Any]) -> str:
        (explanation,) = result["explanations"]
        expected = self._quiet[asked.model, seed, asked.layer, asked.method]
        found = _array(explanation["map"])
        if found.shape != expected.shape:
            return f"picture {seed} has a map of shape {found.shape}, not {expected.shape}"
        off = float(np.abs(found - expected).max())
        return f"picture {seed} is off by {off:.2g} in {asked}" if off > TOLERANCE else ""

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()


def _refused(response: httpx.Response) -> Answered:
    if response.headers.get("content-type") != "application/problem+json":
        return Answered("wrong", why=f"{response.status_code} {response.headers.get('content-type')}: {response.text}")
    code = response.json()["code"]
    retry_after = response.headers.get("retry-after")
    if response.status_code in {429, 503} and retry_after is None:
        return Answered("wrong", code, "no Retry-After", response.status_code)
    return Answered("error", code, status=response.status_code, retry_after=retry_after)


def _array(data: dict[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(data["data"]), "<f4").reshape(data["shape"])


class Load:
    """Requests at ``rate`` per second in the background."""

    def __init__(self, traffic: Traffic, rate: float) -> None:
        self._traffic = traffic
        self._rate = rate
        self._tasks: set[asyncio.Task[Answered]] = set()
        self._source: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        self._source = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send no more; wait for what is under way."""
        if self._source is not None:
            self._source.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        due = time.monotonic()
        while True:
            due += self._traffic.rng.expovariate(self._rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._traffic.ask(self._traffic.any_request()))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
