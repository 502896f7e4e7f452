"""A model checked in a process of its own: one that crashes, hangs or exits is a failed row, and no more.

Needs no torch to import.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from service.check.report import STEPS, Report, Row, complete
from service.engine.worker_process import python_command, words_for_exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.check.job import Job
    from service.check.report import Step

__all__ = ["check"]

_LOOK_EVERY_S = 0.2  # a process that is gone may have left others that hold on to its end of the pipe


def check(job: Job, timeout_s: float) -> Report:
    """Check one model in a new process, which is killed with all that it started when it has not ended in time."""
    config, began = job.config, time.monotonic()
    rows: dict[Step, Row] = {}
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        process = subprocess.Popen(  # noqa: S603  # this interpreter, and our own code
            python_command("service.check.main", writing),
            stdin=subprocess.PIPE,
            pass_fds=(writing,),
            start_new_session=True,
        )
        os.close(writing)
        try:
            _hand_over(process, job)
            step, ended = _heard(process, pipe, rows, began + timeout_s)
            code = process.poll()
        finally:
            _kill(process)
    if not ended:
        rows[step] = Row(step, "failed", notes=(_last_words(step, code, timeout_s),))
    return Report(config.name, config.architecture, complete(rows), time.monotonic() - began)


def _hand_over(process: subprocess.Popen[bytes], job: Job) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stream:
        stream.write(job.to_json())


def _heard(
    process: subprocess.Popen[bytes], pipe: Iterator[bytes], rows: dict[Step, Row], until: float
) -> tuple[Step, bool]:
    """Collect the rows; return the last step that was begun, and whether the process said that it is done."""
    step: Step = "model"
    for line in _lines(process, pipe, until):
        match _told(line):
            case {"done": True}:
                return step, True
            case {"begins": begun} if begun in STEPS:
                step = begun
            case {"step": about, "result": result, "found": found, "notes": notes} if about in STEPS:
                rows[about] = Row(about, result, found, tuple(notes))
    return step, False


def _told(line: bytes) -> Any:
    """Read a line; None where a model's code has written into what it did not open."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _lines(process: subprocess.Popen[bytes], pipe: Iterator[bytes], until: float) -> Iterator[bytes]:
    """Yield what the process writes, line by line, until it has ended or the time is up."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)  # type: ignore[arg-type]
        rest = b""
        while (left := until - time.monotonic()) > 0:
            gone = process.poll() is not None
            if not selector.select(0 if gone else min(left, _LOOK_EVERY_S)):
                if gone:
                    return
                continue
            chunk = os.read(pipe.fileno(), 65536)  # type: ignore[attr-defined]
            if not chunk:  # it has ended, or a model's code has closed what it did not open
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, until - time.monotonic()))
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(step: Step, code: int | None, timeout_s: float) -> str:
    if code is None:
        return (
            f"It had not ended after {timeout_s:g} s, at this step, and was killed. If it needs longer, give it more: "
            "--timeout SECONDS."
        )
    if code >= 0:
        return (
            f"The process that checks it ended here: it {words_for_exit(code)}. The model's code must not end the "
            "process that loads it, as os._exit() does."
        )
    why = " Too little memory, most likely." if -code == signal.SIGKILL else ""
    return (
        f"The process that checks it ended here: it was {words_for_exit(code)}.{why} In a service, a worker would end "
        f"at this step ({STEPS[step]}) as often as the model is loaded."
    )
