"""The chaos run: faults under load against a real server, and a table of what became of every request.

The promise: every accepted request gets exactly one answer; an answered map is the one that the picture gets alone and
in quiet; no picture is tried more than twice; nothing waits for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.settings import load_settings
from service.web.keys import digest_of
from tests.chaos.amounts import AMOUNTS, Crowd, front_bound
from tests.chaos.faults import FAULTS, Scene
from tests.chaos.small import SmallRequests, small_requests
from tests.chaos.traffic import MODELS, REFUSED_MODEL, Load, Traffic
from tests.faults import DEPENDENT, MODEL
from tests.server import running_server

if TYPE_CHECKING:
    import subprocess

    from tests.chaos.traffic import Verdict
    from tests.server import Server

MAX_QUEUE = 64
# The many, those who ask for much, and one who asks for little: who waits for whom is settled between keys.
KEYS = {name: {"Authorization": f"Bearer chaos-{name}"} for name in ("traffic", "bulk", "small")}
LIMITS: dict[str, Any] = {
    "max_queue": MAX_QUEUE,
    "max_open_pixels": 32_000_000,
    "max_request_cost": "forward=20000,pixels=400000000,bytes=64000000",
    "max_total_cost": "forward=100000,pixels=1000000000,bytes=128000000",
    "decode_threads": 2,
}
RECOVERY_LIMIT_S = 300.0
EXIT_LIMIT_S = 60.0
ARGUMENTS = (
    *(argument for name in MODELS for argument in ("--model", f"{name}={MODEL}")),
    *("--model", f"{REFUSED_MODEL}={DEPENDENT}"),
    *("--device", "cpu", "--workers", "2", "--threads", "1"),
    *(word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))),
    *("--max-batch-size", "32"),
    *("--keys", " ".join(f"{name}={digest_of(f'chaos-{name}')},scopes=infer+metrics+manage" for name in KEYS)),
    *("--worker-silence-timeout-s", "5", "--request-timeout-s", "90", "--log-level", "error"),
)


@dataclass
class Row:
    """What a fault did, over all times it was injected."""

    injected: int = 0
    in_flight: int = 0
    recovery_s: list[float] = field(default_factory=list)


class Run:
    """One run."""

    def __init__(self, server: Server, small: SmallRequests, folder: Path, seed: int, rate: float) -> None:
        self.server = server
        self.rng = random.Random(seed)
        self.traffic = Traffic(server.url, self.rng, KEYS["traffic"])
        self.load = Load(self.traffic, rate)
        self.scene = Scene(self.traffic, folder, server.url, MAX_QUEUE)
        self.crowd = Crowd(server.url, KEYS["bulk"], small, self.rng)
        self.rows = {name: Row() for name in (*FAULTS, *AMOUNTS)}
        self.front_peak = 0
        self.complaints: list[str] = []

    async def go(self, seconds: float) -> None:
        """Inject every fault at least once, and on until the time is over."""
        await self.traffic.learn()
        await self.crowd.listen()
        self.load.start()
        ends = time.monotonic() + seconds
        waiting: list[str] = []
        while time.monotonic() < ends or not all(row.injected for row in self.rows.values()):
            waiting = waiting or self.rng.sample(list(self.rows), len(self.rows))
            await self._inject(waiting.pop())
            await asyncio.sleep(self.rng.uniform(0.1, 0.5))
        await self._end()

    async def _inject(self, name: str) -> None:
        row = self.rows[name]
        row.injected += 1
        row.in_flight += self.traffic.in_flight
        self.traffic.during = name
        found = await (AMOUNTS[name](self.crowd) if name in AMOUNTS else FAULTS[name](self.scene))
        self.complaints += [f"{name}: {complaint}" for complaint in found]
        began = time.monotonic()
        while not await self._recovered():
            if time.monotonic() - began > RECOVERY_LIMIT_S:
                self.complaints.append(f"{name}: no recovery within {RECOVERY_LIMIT_S:g} s")
                break
            await asyncio.sleep(0.05)
        row.recovery_s.append(time.monotonic() - began)
        self.traffic.during = "none"
        self.front_peak = _peak_bytes(self.server.process.pid)

    async def _recovered(self) -> bool:
        """Whether all workers have all models, and a request is answered."""
        workers = (await self.scene.readiness())["workers"]
        if len(workers) != 2 or any(sorted(each["models"]) != sorted(MODELS) for each in workers):
            return False
        probes = await asyncio.gather(*(self.traffic.ask(self.traffic.any_request()) for _ in MODELS))
        return all(each.verdict == "right" for each in probes)

    async def _end(self) -> None:
        """SIGTERM under load: what was accepted is answered, and the exit code is 0."""
        row = self.rows["SIGTERM under load"] = Row(injected=1, in_flight=self.traffic.in_flight)
        self.traffic.during = "SIGTERM under load"
        asked = [asyncio.create_task(self.traffic.ask(self.traffic.any_request())) for _ in range(12)]
        await asyncio.sleep(0.05)
        began = time.monotonic()
        self.server.process.terminate()
        await self.load.stop()
        await asyncio.gather(*asked)
        code = await asyncio.to_thread(_exit_code, self.server.process)
        row.recovery_s.append(time.monotonic() - began)
        if code != 0:
            self.complaints.append(f"SIGTERM: exit code {code}")
        await self.traffic.close()

    def report(self) -> bool:
        """Print the table; return whether everything was as promised."""
        columns = ("fault", "injected", "in flight", "right", "error", "lost", "wrong", "recovery s (worst)")
        lines: list[tuple[str, ...]] = [columns]
        for name, row in {"none": Row(), **self.rows}.items():
            counts: Counter[Verdict] = self.traffic.counts.get(name, Counter())
            verdicts = [str(counts[verdict]) for verdict in ("right", "error", "lost", "wrong")]
            worst = f"{max(row.recovery_s):.1f}" if row.recovery_s else "–"
            lines.append((name, str(row.injected or "–"), str(row.in_flight), *verdicts, worst))
        widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
        for line in lines:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        print(f"\nerrors by code: {dict(self.traffic.codes.most_common())}")
        bound = front_bound(load_settings(**LIMITS))
        print(f"the front had {self.front_peak / 1e6:.0f} MB at its height; {bound / 1e6:.0f} MB are allowed")
        print(self.crowd.verdict())
        broken = self.complaints + self.traffic.complaints
        if self.front_peak > bound:
            broken.append(f"the front had {self.front_peak} bytes")
        if self.traffic.sent != self.traffic.answered:
            broken.append(f"{self.traffic.sent} requests, {self.traffic.answered} answers")
        for complaint in broken[:40]:
            print(f"BROKEN PROMISE  {complaint}")
        return not broken


def _peak_bytes(pid: int) -> int:
    """Return the largest resident set that a process has had."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _exit_code(process: subprocess.Popen[str]) -> int:
    return process.wait(EXIT_LIMIT_S)


def main() -> int:
    """Run, print, and fail if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=None, help="the same faults in the same order; random if left out")
    parser.add_argument("--rate", type=float, default=12, help="requests per second beside the faults")
    options = parser.parse_args()
    seed = random.randrange(10_000) if options.seed is None else options.seed
    print(f"chaos: {options.seconds:g} s, seed {seed}, {options.rate:g} requests per second\n", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CAMSERVE_TESTS_FAULTS"] = folder
        with (
            running_server(*ARGUMENTS, headers=KEYS["small"]) as server,
            small_requests(server.url, KEYS["small"]["Authorization"], Path(folder) / "small") as small,
        ):
            run = Run(server, small, Path(folder), seed, options.rate)
            asyncio.run(run.go(options.seconds))
            return 0 if run.report() else 1


if __name__ == "__main__":
    sys.exit(main())
