"""The process of an evaluation, from its first to its last moment. What it finds goes into files of its folder.

It takes what nobody else wants of the cores, and of memory what is left: live requests come first.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from service.engine.workers.ending import die_with_the_front
from service.jobs.order import Order
from service.settings import environment

__all__ = ["main"]


def main() -> None:
    """Do what standard input says, and tell of it on the descriptor that is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    die_with_the_front()
    _stand_back()
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:

        def tell(message: object) -> None:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()

        tell({})  # where the front is gone already, this ends here, before it takes a while to import what computes
        with environment(OMP_WAIT_POLICY="PASSIVE"):  # threads that wait for each other would burn their cores
            from service.jobs.work import work  # noqa: PLC0415

        order = Order.model_validate_json(sys.stdin.buffer.read())
        os.dup2(2, 1)  # what a model's code prints is no part of the answer
        work(order, tell)
    os._exit(0)  # whatever the model's code has left running or registered


def _stand_back() -> None:
    """Compute only where the cores would idle, and be the one that ends where memory does not suffice."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):  # other systems than Linux have none, and some containers forbid it
        os.nice(19)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
