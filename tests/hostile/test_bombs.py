"""Small files that are dear to read: refused, or read within the memory and the time that the limits promise."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.hostile.bombs import BOMBS, DAMAGED, MAX_BYTES, MAX_PIXELS, READ

pytestmark = pytest.mark.slow

# ``Header.pixels`` promises 16 bytes for each. What is refused by its header costs next to nothing; what turns out to
# be damaged may have had its picture allocated.
BYTES_PER_PIXEL = 16
COPIES = 4  # of the file's metadata, which Pillow takes apart
SLACK_BYTES = 32 * 2**20  # what the allocator keeps
SECONDS = 20.0  # of the processor; the dearest takes two on a fast machine, and took a hundred before it was bounded


@pytest.fixture(scope="module")
def verdicts() -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-W", "error", "-m", "tests.hostile.judge"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "", "no library may write into the log what strangers make it say"
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["name"]: line for line in lines}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_no_more_than_a_picture(name: str, verdicts: dict[str, dict[str, Any]]) -> None:
    verdict = verdicts[name]
    assert verdict["outcome"] == BOMBS[name][1]
    assert verdict["sent"] <= MAX_BYTES
    assert verdict["seconds"] < SECONDS
    pixels = verdict["pixels"] if verdict["outcome"] == READ else 0
    most = BYTES_PER_PIXEL * pixels + COPIES * verdict["sent"] + SLACK_BYTES
    if verdict["outcome"] == DAMAGED:
        most += 4 * MAX_PIXELS
    assert verdict["bytes"] <= most
