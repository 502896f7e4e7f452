"""The jobs and the workers: who computes what, and what becomes of jobs whose worker died."""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.engine.batcher import Batcher
from service.engine.messages import Progress, Ran, RowAnswer, Run
from service.engine.spans import Spans
from service.engine.supervisor import KEEPS_DYING, Supervisor
from service.errors import InternalError, NotReady, UnknownModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.engine.jobs import Job
    from service.engine.messages import Message
    from service.engine.process import WorkerProcess, WorkerState
    from service.metrics import Ending, Metrics
    from service.models.info import ModelInfo
    from service.settings import ModelConfig, Settings
    from service.vocabulary import ModelState

__all__ = ["ModelStatus", "Pool", "WorkerStatus"]

_MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class ModelStatus:
    """A configured model, as seen over all workers."""

    config: ModelConfig
    state: ModelState
    reason: str | None = None
    info: ModelInfo | None = None


@dataclass(frozen=True)
class WorkerStatus:
    """A worker, as whoever operates the service sees it.

    Attributes:
        pid: of its process, once there is one.
        device: such as ``cuda:0``.
        state: how far it is.
        models: names of those that it answers for, sorted.
        batches: how many it computes.
        progress: batch number → share that is done, where a slow batch has told.
        deaths: how many in its place died in a row without having been of use.
        last_exit: how the one before it ended.
    """

    pid: int | None
    device: str
    state: WorkerState
    models: tuple[str, ...]
    batches: int
    progress: Mapping[int, float]
    deaths: int
    last_exit: str | None


class Pool:
    """All workers of this service. Lives in one event loop, which alone may call it."""

    def __init__(self, settings: Settings, metrics: Metrics, spans: Spans | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._spans = spans or Spans()
        self._configs = {config.name: config for config in settings.models}
        self._batcher: Batcher[Job] = Batcher(settings.max_batch_size, settings.max_batch_pixels)
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self.supervisor = Supervisor(settings, metrics, self._on_message, self._on_lost)
        self.draining = False

    async def start(self) -> None:
        """Launch the first workers; models load while this returns."""
        await self.supervisor.start()

    async def stop(self) -> None:
        """End the workers. Jobs without an answer, running or waiting, fail with NotReady."""
        self.draining = True
        unanswered = [job for worker in self.workers for jobs in worker.running.values() for job in jobs]
        while waiting := self._batcher.next_batch(lambda _lane: True):
            unanswered += waiting
        for job in unanswered:
            job.fail(NotReady("The service is shutting down.", retry_after_s=5))
        await self.supervisor.stop()

    async def settled(self, name: str | None = None) -> None:
        """Wait until a model, by default the first, is no longer loading: it answers, or it failed."""
        while self.status(name).state == "loading":
            self._changed.clear()
            await self._changed.wait()

    def submit(self, job: Job) -> None:
        """Queue ``job`` and hand out what can be handed out."""
        self._batcher.submit(job)
        self._dispatch()

    def withdraw(self, job: Job) -> None:
        """Forget ``job``, whether it waits or is computed: nobody wants its answer."""
        if not self._batcher.withdraw(job):
            for worker in self.workers:
                worker.give_up(job)
        self._metrics.queue_depth.set(len(self._batcher))

    def status(self, name: str | None = None) -> ModelStatus:
        """Tell how a model is; without a name, the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        config = self._configs.get(next(iter(self._configs)) if name is None else name)
        if config is None:
            raise UnknownModel.among(str(name), self._configs)
        infos = [worker.models[config.name] for worker in self.workers if config.name in worker.models]
        if infos:
            return ModelStatus(config, "ready", info=infos[0])
        failures = [worker.failures[config.name] for worker in self.workers if config.name in worker.failures]
        if failures:
            return ModelStatus(config, "failed", reason=failures[0])
        if self.workers and all(worker.deaths >= KEEPS_DYING for worker in self.workers):
            reason = f"its worker process keeps dying; last time: {self.workers[0].last_exit}. It is started again"
            return ModelStatus(config, "failed", reason=f"{reason} within half a minute.")
        return ModelStatus(config, "loading")

    def worker_statuses(self) -> list[WorkerStatus]:
        """Tell how every worker is."""
        return [
            WorkerStatus(
                pid=worker.pid,
                device=worker.device,
                state=worker.state,
                models=tuple(sorted(worker.models)),
                batches=len(worker.running),
                progress=dict(worker.progress),
                deaths=worker.deaths,
                last_exit=worker.last_exit,
            )
            for worker in self.workers
        ]

    def statuses(self) -> list[ModelStatus]:
        """Tell how every model is, in the order of configuration."""
        return [self.status(name) for name in self._configs]

    def ready_info(self, name: str | None) -> ModelInfo:
        """Return what is known of a model that can answer now.

        Raises:
            UnknownModel: there is none of that name.
            NotReady: it is loading, it failed to load, or the service is shutting down.
        """
        status = self.status(name)
        if self.draining:
            raise NotReady("The service is shutting down.", retry_after_s=5)
        if status.info is not None:
            return status.info
        model = status.config.name
        if status.state == "failed":
            raise NotReady(f"Model {model!r} cannot be loaded: {status.reason}", retry_after_s=60)
        raise NotReady(f"Model {model!r} is being loaded. Try again in a few seconds.", retry_after_s=2)

    # -- workers ------------------------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[WorkerProcess]:
        """All workers, those that wait to be started again included."""
        return self.supervisor.workers

    def _on_message(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case Progress(batch, fraction):
                worker.progress[batch] = fraction
            case Ran():
                self._on_ran(worker, message)
        self._changed.set()
        self._dispatch()

    def _on_lost(self, worker: WorkerProcess) -> None:
        """Give a dead worker's jobs to a healthy one: each once more, and alone."""
        for job in [job for jobs in reversed(worker.running.values()) for job in reversed(jobs)]:
            self._retry(job, worker.ended)
        self._changed.set()
        self._dispatch()

    def _retry(self, job: Job, ended: Ending) -> None:
        job.attempts += 1
        if job.attempts >= _MAX_ATTEMPTS:
            job.fail(InternalError("Two workers died while they computed this picture; it is not tried again."))
        elif not job.abandoned:
            self._metrics.retried.labels(ended).inc()
            self._batcher.resubmit(job)

    # -- batches ------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give batches to workers until none is free or none fits; the least busy worker is served first."""
        handed_out = True
        while handed_out:
            handed_out = False
            for worker in sorted(self.workers, key=lambda worker: len(worker.running)):
                batch = self._batcher.next_batch(worker.accepts)
                if batch:
                    self._send(worker, batch)
                    handed_out = True
        self._metrics.queue_depth.set(len(self._batcher))

    def _send(self, worker: WorkerProcess, jobs: list[Job]) -> None:
        now = time.perf_counter()
        for job in jobs:
            job.started_at = now
            self._metrics.stage_seconds.labels("queue").observe(now - job.queued_at)
        run = Run(
            batch=next(self._numbers),
            lane=jobs[0].lane,
            pixels=np.stack([job.pixels for job in jobs]),  # (N, H, W, 3)
            questions=tuple(job.question for job in jobs),
            request_ids=tuple(job.request_id for job in jobs),
        )
        worker.send(run, jobs)

    def _on_ran(self, worker: WorkerProcess, ran: Ran) -> None:
        jobs = worker.running.pop(ran.batch)
        worker.progress.pop(ran.batch, None)
        lane = jobs[0].lane
        self._metrics.batch_size.labels(lane.model, lane.op).observe(len(jobs))
        self._metrics.batch_seconds.labels(lane.model, lane.op).observe(ran.compute_s)
        self._metrics.isolated.labels("error" if ran.fits is None else "memory").inc(ran.splits)
        self._spans.batch(worker, jobs, ran)
        self._batcher.learn(lane, len(jobs), ran.fits)
        for job, outcome in zip(jobs, ran.outcomes, strict=True):
            if isinstance(outcome, RowAnswer):
                job.answer(outcome, ran.compute_s, len(jobs))
            else:
                job.fail(outcome)
