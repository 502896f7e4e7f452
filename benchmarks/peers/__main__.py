"""``python -m benchmarks.peers [NAME…]``: beside what others use, where that is installed (``scripts/bench-peers``)."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.peers import library, servers
from benchmarks.peers.servers import Asked
from benchmarks.peers.systems import MODELS
from benchmarks.results import Record, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.results import Benchmark

_NAMES = ("library", "servers")


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *_NAMES], help="which to run; all if none is named")
    parser.add_argument("--record", action="store_true", help="keep what is found in docs/performance.json")
    parser.add_argument("--seconds", type=float, default=30.0, help="that each number of clients asks each server")
    parser.add_argument("--model", action="append", choices=list(MODELS), help="one architecture alone; repeatable")
    given = parser.parse_args()
    asked = Asked(given.seconds, tuple(given.model or MODELS))
    benchmarks: Mapping[str, Benchmark] = {
        "library": library.explain_against_the_library,
        "servers": partial(servers.explain_against_servers, asked),
    }
    run(benchmarks, given.names or _NAMES, Record() if given.record else None)


if __name__ == "__main__":
    main()
