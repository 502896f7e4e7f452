"""``camserve serve`` whose event loop beats, and writes into a file how long it stood still.

Run as ``python -m tests.hostile.beating FILE ARGUMENTS…``. The file is JSON: the longest time between two beats, and
the most time that the loop's thread worked between two, in seconds, since the file was last removed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from service import cli
from service.web.server import Server

BEAT_S = 0.005


async def beat(file: Path) -> None:
    """Beat, for ever."""
    longest, most = 0.0, 0.0
    before, worked = time.monotonic(), time.thread_time()
    while True:
        await asyncio.sleep(BEAT_S)
        still, work = time.monotonic() - before, time.thread_time() - worked
        longest, most = _kept(file, longest, most, still, work)
        before, worked = time.monotonic(), time.thread_time()


def _kept(file: Path, longest: float, most: float, still: float, work: float) -> tuple[float, float]:
    if not file.exists():
        longest, most = -1.0, -1.0
    if still > longest or work > most:
        longest, most = max(longest, still), max(most, work)
        whole = file.with_suffix(".new")  # nobody reads half of it
        whole.write_text(json.dumps({"still_s": longest, "worked_s": most}))
        whole.replace(file)
    return longest, most


class Beating(Server):
    async def main_loop(self) -> None:
        task = asyncio.create_task(beat(Path(FILE)))
        await super().main_loop()
        task.cancel()


if __name__ == "__main__":
    FILE, *arguments = sys.argv[1:]
    sys.modules["service.web.server"].Server = Beating  # type: ignore[attr-defined]
    sys.exit(cli.main(arguments))
