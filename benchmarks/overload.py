"""Three times what the service can do, from clients that do not wait for each other.

Arrivals are Poisson. An answer's time counts from when its request was due, not from when the generator got round to
it, and a server that is slow to answer is not asked less.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.over_http import scene_jpeg
from benchmarks.sockets import Connections, Usage, head, server_port, usage
from tests.server import running_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from tests.server import Server

MAX_QUEUE = 32
_SETTINGS = ("--model=squeezenet1_0:random", f"--max-queue={MAX_QUEUE}", "--log-level=warning")


@dataclass(frozen=True)
class Outcome:
    """One request: its status, the seconds from when it was due to its answer, and Retry-After where there was one."""

    status: int
    seconds: float
    retry_after_s: int | None


@dataclass(frozen=True)
class Overload:
    """What came of it.

    Attributes:
        capacity: answers a second with as many clients as the queue has room for half of, each waiting for its answer.
        offered: requests a second that were due.
        seconds: how long.
        outcomes: of every request.
        probes: seconds that ``/livez`` took meanwhile, asked five times a second.
        before, after: what the front process held, after the warm-up and two seconds after the end.
        metrics: the metrics, after.
        served_after: status of a request after the end.
    """

    capacity: float
    offered: float
    seconds: float
    outcomes: list[Outcome]
    probes: list[float]
    before: Usage
    after: Usage
    metrics: str
    served_after: int

    def times(self, status: int) -> list[float]:
        return sorted(outcome.seconds for outcome in self.outcomes if outcome.status == status)


def overload(seconds: float, factor: float = 3.0) -> Overload:
    """Offer ``factor`` times the capacity, measured before, for ``seconds``."""
    with running_server(*_SETTINGS) as server:
        return asyncio.run(_run(server, seconds, factor))


async def _run(server: Server, seconds: float, factor: float) -> Overload:
    port, pid = server_port(server), server.process.pid
    picture = scene_jpeg()
    request = head("/api/v1/explain?output=heatmap", len(picture), "image/jpeg") + picture
    connections = Connections(port)
    await _closed_loop(connections, request, 2.0)
    before = usage(pid)
    capacity = await _closed_loop(connections, request, 5.0)
    probing = asyncio.create_task(_probe(port))
    outcomes = await _open_loop(connections, request, factor * capacity, seconds)
    probing.cancel()
    probes = await probing
    connections.close()
    await asyncio.sleep(2)
    after = usage(pid)
    served = await connections.ask(request)
    metrics = (await connections.ask(head("/metrics"))).body.decode()
    connections.close()
    return Overload(capacity, len(outcomes) / seconds, seconds, outcomes, probes, before, after, metrics, served.status)


async def _closed_loop(connections: Connections, request: bytes, seconds: float) -> float:
    """Return the answers a second to clients that each wait for theirs."""
    end = time.perf_counter() + seconds

    async def client() -> int:
        count = 0
        while time.perf_counter() < end:
            count += (await connections.ask(request)).status == 200
        return count

    return sum(await asyncio.gather(*(client() for _ in range(MAX_QUEUE // 2)))) / seconds


async def _open_loop(connections: Connections, request: bytes, rate: float, seconds: float) -> list[Outcome]:
    gaps = random.Random(0)
    began = due = time.perf_counter()
    asked: list[Awaitable[Outcome]] = []
    while (due := due + gaps.expovariate(rate)) < began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        asked.append(asyncio.create_task(_ask(connections, request, due)))
    return await asyncio.gather(*asked)


async def _ask(connections: Connections, request: bytes, due: float) -> Outcome:
    reply = await connections.ask(request)
    retry_after = reply.headers.get("retry-after")
    return Outcome(reply.status, time.perf_counter() - due, None if retry_after is None else int(retry_after))


async def _probe(port: int) -> list[float]:
    """Ask ``/livez`` over new connections until cancelled, as a supervisor does."""
    times = []
    try:
        while True:
            began = time.perf_counter()
            connections = Connections(port)
            assert (await connections.ask(head("/livez"))).status == 200
            connections.close()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.2)
    except asyncio.CancelledError:
        return times


def three_times_the_capacity() -> Iterator[str]:
    """A minute of three times the capacity: SqueezeNet 1.0, one worker, 500×375 JPEGs."""
    ran = overload(60.0)
    accepted, refused = ran.times(200), ran.times(429)
    waits = [outcome.retry_after_s for outcome in ran.outcomes if outcome.retry_after_s is not None]
    yield f"capacity {ran.capacity:.0f}/s, offered {ran.offered:.0f}/s for {ran.seconds:.0f} s, queue of {MAX_QUEUE}"
    yield (
        f"{len(accepted) / ran.seconds:.0f}/s answered, {len(refused) / len(ran.outcomes):.0%} refused with 429: "
        f"offered {len(ran.outcomes) / len(accepted):.1f} × what was answered"
    )
    yield f"answers: p50 {_at(accepted, 0.5):.2f} s, p99 {_at(accepted, 0.99):.2f} s, slowest {accepted[-1]:.2f} s"
    yield f"refusals: p50 {_at(refused, 0.5) * 1000:.0f} ms, p99 {_at(refused, 0.99) * 1000:.0f} ms"
    yield f"Retry-After {min(waits)}–{max(waits)} s, median {statistics.median(waits):g} s"
    yield f"/livez: p50 {_at(sorted(ran.probes), 0.5) * 1000:.0f} ms, slowest {max(ran.probes) * 1000:.0f} ms"
    yield f"front before and after: {ran.before.rss_mb:.0f} and {ran.after.rss_mb:.0f} MB"


def refusal_against_answer() -> Iterator[str]:
    """CPU time of the front for a 429, with the queue full of one slow answer, and for an answer."""
    picture = scene_jpeg()
    request = head("/api/v1/explain?output=heatmap", len(picture), "image/jpeg") + picture
    slow = head("/api/v1/explain?method=scorecam", len(picture), "image/jpeg") + picture
    with running_server("--model=squeezenet1_0:random", "--max-queue=1", "--log-level=warning") as server:
        answer_s, refusal_s = asyncio.run(_cpu_of_both(server, request, slow))
    yield f"CPU of the front: {answer_s * 1000:.1f} ms for an answer, {refusal_s * 1000:.2f} ms for a refusal"


async def _cpu_of_both(server: Server, request: bytes, slow: bytes) -> tuple[float, float]:
    connections = Connections(server_port(server))
    answer_s = await _cpu_s(server, connections, request, 200, 50)
    fills_the_queue = asyncio.create_task(connections.ask(slow))
    await asyncio.sleep(1)
    refusal_s = await _cpu_s(server, connections, request, 429, 500)
    fills_the_queue.cancel()
    connections.close()
    return answer_s, refusal_s


async def _cpu_s(server: Server, connections: Connections, request: bytes, status: int, times: int) -> float:
    """Ask one by one; return the front's CPU seconds for each."""
    before = usage(server.process.pid).cpu_s
    for _ in range(times):
        assert (await connections.ask(request)).status == status
    return (usage(server.process.pid).cpu_s - before) / times


def _at(times: list[float], quantile: float) -> float:
    return times[min(len(times) - 1, int(quantile * len(times)))]
