"""``python -m benchmarks.gpu``: what has to be seen on a real GPU, in eight minutes; ``scripts/gpu-check`` calls it.

``--device cpu`` goes through the same steps without one, to see that the check itself works.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import torch

from benchmarks.gpu import faults, speed
from benchmarks.results import Line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# Those whose workers take the GPU where there is one, as servers do that are told of no device.
_TESTS = (
    "tests/engine/test_devices.py",
    "tests/e2e/test_shutdown.py",
    "tests/e2e/test_swap.py",
    "tests/test_export.py",
)
_TESTS_S = 150.0


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.gpu", description=__doc__)
    parser.add_argument("steps", nargs="*", help="which to go through; all if none is named")
    parser.add_argument("--device", default="cuda", help="where workers compute")
    parser.add_argument("--seconds", type=float, default=8.0, help="that each number of clients asks")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"No GPU: torch {torch.__version__} sees no CUDA device. Run this where there is one.", file=sys.stderr)
        return 2
    steps = _steps(given.device, given.seconds)
    if unknown := set(given.steps) - set(steps):
        parser.error(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(steps)}")
    print(f"{'device':10} {_name(given.device)}, torch {torch.__version__}", flush=True)
    return max(_went(name, steps[name]) for name in given.steps or steps)


def _steps(device: str, seconds: float) -> Mapping[str, Callable[[], Iterable[str | Line]]]:
    return {
        "maps": partial(speed.same_maps, device),
        "inprocess": partial(speed.in_process, device),
        "http": partial(speed.over_http, device, seconds),
        "assert": partial(faults.a_picture_that_fails_the_device, device),
        "memory": partial(faults.a_batch_too_large_for_the_memory, device),
        "tests": _tests,
    }


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _went(name: str, step: Callable[[], Iterable[str | Line]]) -> int:
    """Go through a step and print what it finds; return 1 if it found that something is not as it should be."""
    began, worst = time.monotonic(), 0
    for line in step():
        print(f"{name:10} {line}", flush=True)
        worst = max(worst, int(isinstance(line, Line) and line.met is False))
    print(f"{name:10} {time.monotonic() - began:.0f} s", flush=True)
    return worst


def _tests() -> Iterable[Line]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *_TESTS]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_TESTS_S, check=False)
        said = (ran.stdout or ran.stderr).strip().splitlines()[-1]
        passed = ran.returncode == 0
    except subprocess.TimeoutExpired:
        said, passed = f"not done in {_TESTS_S:g} s", False
    yield Line(f"{' '.join(_TESTS)}: {said}", "all pass", passed)


if __name__ == "__main__":
    sys.exit(main())
