"""The process that checks one model: what it finds goes down a pipe as lines of JSON, as soon as it is found."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, TextIO

import torch

from service import logs
from service.check.job import Job
from service.check.report import Row
from service.check.steps import check_loaded, passed_rows, source_row
from service.check.subject import Subject
from service.engine.workers.ending import die_with_the_front
from service.engine.workers.executor import devices_for, require_device
from service.errors import ModelLoadError
from service.models.loading import LoadObserver, load_model
from service.models.sources.source import Downloads

if TYPE_CHECKING:
    from service.check.report import Step
    from service.models.host import ModelHost
    from service.models.sources.source import LoadedModel
    from service.vocabulary import LoadCheck

__all__ = ["main"]


def main() -> None:
    """Check what standard input says, and tell of it on the descriptor that is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started this ends it
    die_with_the_front()
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:
        job = Job.model_validate_json(sys.stdin.buffer.read())
        os.dup2(2, 1)  # what a model's code prints is no part of the answer
        logs.configure("debug" if job.log_level == "debug" else "error", job.log_format)
        if job.threads:
            torch.set_num_threads(job.threads)
        _check(job, _Teller(pipe))
    os._exit(0)  # whatever the model's code has left running or registered


class _Teller(LoadObserver):
    """Tells what begins and what was found."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe
        self.begun: list[LoadCheck] = ["model"]
        self.loaded: LoadedModel | None = None

    def begins(self, stage: LoadCheck) -> None:
        """Hear it from a load."""
        self.begun.append(stage)
        self.at(stage)

    def read(self, loaded: LoadedModel) -> None:
        """Hear it from a load."""
        self.loaded = loaded
        self.row(source_row(loaded))

    def at(self, step: Step) -> None:
        """Tell that a step begins."""
        self._tell({"begins": step})

    def row(self, row: Row) -> None:
        """Tell what was found."""
        self._tell(row.as_json())

    def done(self) -> None:
        """Tell that there is nothing more."""
        self._tell({"done": True})

    def _tell(self, message: object) -> None:
        self._pipe.write(json.dumps(message) + "\n")
        self._pipe.flush()


def _check(job: Job, teller: _Teller) -> None:
    host = _load(job, teller)
    if host is not None:
        assert teller.loaded is not None
        for row in check_loaded(Subject(job, host, teller.loaded), teller.at):
            teller.row(row)
    teller.done()


def _load(job: Job, teller: _Teller) -> ModelHost | None:
    """Load the model; None where it cannot be, which was told."""
    downloads = Downloads(job.cache_dir, job.allow_download, job.weights_mirror)
    device = devices_for(job.config.device or job.device)[0]
    try:
        require_device(device)
        return load_model(job.config, device, downloads, observer=teller)
    except ModelLoadError as error:
        for row in passed_rows(teller.begun):
            teller.row(row)
        teller.row(Row(teller.begun[-1], "failed", notes=(error.message,)))
        return None
