"""Somebody who asks for little, again and again, from a process of its own.

The process of the chaos run draws pictures and judges answers between its requests. What it would measure of others is
how long it was busy itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.faults import picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_EVERY_S = 0.04


@dataclass(frozen=True)
class SmallRequests:
    """What the process has written so far: when each answered request began, and what it took."""

    file: Path

    def seconds(self, spans: Sequence[tuple[float, float]]) -> list[float]:
        """Return what requests took that began within one of the spans of ``time.monotonic``."""
        lines = [line.split() for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        times = [(float(began), float(took)) for began, took in lines]
        return [took for began, took in times if any(start <= began < end for start, end in spans)]


@contextmanager
def small_requests(url: str, authorization: str, file: Path) -> Iterator[SmallRequests]:
    """Send small requests one after the other while the block runs."""
    file.touch()
    command = [sys.executable, "-m", "tests.chaos.small", url, authorization, str(file)]
    with subprocess.Popen(command) as process:
        try:
            yield SmallRequests(file)
        finally:
            process.terminate()


def main(url: str, authorization: str, file: str) -> None:
    """Ask until terminated; refusals and broken connections count for nothing here."""
    data = picture(1)
    with (
        httpx.Client(base_url=url, headers={"Authorization": authorization}, timeout=60) as client,
        Path(file).open("a") as times,
    ):
        while True:
            began = time.monotonic()
            try:
                answered = client.post("/api/v1/predict", files={"image": data}).status_code == 200
            except httpx.TransportError:
                answered = False
            if answered:
                times.write(f"{began} {time.monotonic() - began}\n")
                times.flush()
            time.sleep(_EVERY_S)


if __name__ == "__main__":
    main(*sys.argv[1:])
