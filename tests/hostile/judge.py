"""Opens every bomb in a process of its own and prints, as JSON, what became of it and what it took.

``ru_maxrss`` survives an exec, so it would tell of the tests' own process; the high-water mark of /proc can be reset.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from service.errors import ServiceError
from service.imaging.decode import DecodeLimits, decode, read_header
from tests.hostile.bombs import BOMBS, MAX_BYTES, MAX_PIXELS

LIMITS = DecodeLimits(MAX_BYTES, MAX_PIXELS, 1000)


def high_water_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def outcome(data: bytes) -> tuple[str, int]:
    """What becomes of a file: "read" or the error's code; and the pixels that its header announced."""
    try:
        pixels = read_header(data, LIMITS).pixels
        decode(data, LIMITS)
    except ServiceError as error:
        return error.code, 0
    return "read", pixels


def judge(name: str) -> dict[str, object]:
    data = BOMBS[name][0]()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = high_water_bytes(), time.process_time()
    found, pixels = outcome(data)
    return {
        "name": name,
        "outcome": found,
        "pixels": pixels,
        "sent": len(data),
        "seconds": time.process_time() - began,
        "bytes": high_water_bytes() - before,
    }


if __name__ == "__main__":
    for name in BOMBS:
        print(json.dumps(judge(name)), flush=True)  # noqa: T201
