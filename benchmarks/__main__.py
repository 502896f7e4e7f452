"""``python -m benchmarks [NAME…]``: the ratios that README and docs quote, each measured in one run on this machine.

Without names everything is measured, and the figures go to ``docs/performance.json``.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from benchmarks import (
    evaluating,
    fairness,
    in_process,
    limit,
    live,
    over_http,
    overload,
    page,
    registration,
    soak,
    verifying,
)
from benchmarks.results import Record, run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.results import Benchmark

BENCHMARKS: Mapping[str, Benchmark] = {
    "explain": in_process.explain_against_forward,
    "targets": in_process.many_targets_against_one,
    "methods": in_process.methods_against_forward,
    "layers": in_process.several_layers_against_one,
    "estimate": in_process.estimated_against_measured,
    "verify": verifying.proofs_against_passes,
    "evaluate": evaluating.hundred_pictures_and_twelve_layers,
    "registration": registration.measured_against_stretched,
    "measuring": registration.load_with_and_without_measuring,
    "start": over_http.start_of_the_front,
    "overhead": over_http.time_outside_the_model,
    "load": over_http.batched_against_one_by_one,
    "http": limit.http_against_in_process,
    "front": limit.cpu_of_the_front,
    "sharing": limit.targets_and_layers,
    "memory": limit.memory_of_a_worker,
    "page": page.drop_and_sliders,
    "overload": overload.three_times_the_capacity,
    "fairness": fairness.small_beside_bulk,
    "evaluating": live.live_beside_an_evaluation,
    "refusal": overload.refusal_against_answer,
    "soak": soak.ten_thousand_mixed_requests,
}


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="which to run; all if none is named")
    parser.add_argument("--record", action="store_true", help="keep what single ones find, too")
    asked = parser.parse_args()
    record = Record(anew=not asked.names) if asked.record or not asked.names else None
    run(BENCHMARKS, asked.names or BENCHMARKS, record)


if __name__ == "__main__":
    main()
