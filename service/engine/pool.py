"""The workers: started, fed with batches, replaced when they die."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from service.engine.batcher import Batcher
from service.engine.cores import available_cores
from service.engine.messages import Failed, Hello, Loaded, Progress, Ran, RowAnswer, Run, Start
from service.engine.process import WorkerProcess
from service.errors import InternalError, NotReady, UnknownModel
from service.models.sources.source import Downloads

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from service.engine.jobs import Job
    from service.engine.messages import Message
    from service.metrics import Metrics
    from service.models.info import ModelInfo
    from service.settings import ModelConfig, Settings

__all__ = ["ModelStatus", "Pool"]

log = logging.getLogger("camserve.pool")

_MAX_ATTEMPTS = 2
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 30.0


@dataclass(frozen=True)
class ModelStatus:
    """A configured model, as seen over all workers."""

    config: ModelConfig
    state: Literal["loading", "ready", "failed"]
    reason: str | None = None
    info: ModelInfo | None = None


class Pool:
    """All workers of this service. Lives in one event loop, which alone may call it."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._configs = {config.name: config for config in settings.models}
        self._batcher: Batcher[Job] = Batcher(settings.max_batch_size, settings.max_batch_pixels)
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths = 0
        self._spread = settings.device != "auto"
        self._changed = asyncio.Event()
        self.workers: list[WorkerProcess] = []
        self.draining = False

    async def start(self) -> None:
        """Launch the first workers; models load while this returns."""
        for _ in range(self._settings.workers):
            self._add(self._settings.device)

    async def stop(self) -> None:
        """End the workers. Jobs without an answer, running or waiting, fail with NotReady."""
        self.draining = True
        for task in list(self._tasks):
            task.cancel()
        unanswered = [job for worker in self.workers for jobs in worker.running.values() for job in jobs]
        while waiting := self._batcher.next_batch(lambda _lane: True):
            unanswered += waiting
        for job in unanswered:
            job.fail(NotReady("The service is shutting down.", retry_after_s=5))
        await asyncio.gather(*(worker.stop(timeout_s=5.0) for worker in self.workers))

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
            raise UnknownModel.among(str(name), self._configs, "GET /api/v1/models lists them.")
        infos = [worker.models[config.name] for worker in self.workers if config.name in worker.models]
        if infos:
            return ModelStatus(config, "ready", info=infos[0])
        failures = [worker.failures[config.name] for worker in self.workers if config.name in worker.failures]
        if failures:
            return ModelStatus(config, "failed", reason=failures[0])
        return ModelStatus(config, "loading")

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

    def _add(self, device: str, delay_s: float = 0.0) -> None:
        settings = self._settings
        start = Start(
            models=settings.models,
            downloads=Downloads(settings.cache_dir, settings.allow_download, settings.weights_mirror),
            device=device,
            threads=settings.threads or max(1, available_cores() // settings.workers),
            concurrency=settings.concurrency,
            log_level=settings.log_level,
        )
        worker = WorkerProcess(start, self._on_message, self._on_exit)
        self.workers.append(worker)
        self._spawn(self._launch(worker, delay_s))

    async def _launch(self, worker: WorkerProcess, delay_s: float) -> None:
        """Start a worker, and replace it if it hangs before its first model."""
        await asyncio.sleep(delay_s)
        await worker.launch()
        await asyncio.sleep(self._settings.worker_start_timeout_s)
        if worker in self.workers and not (worker.models or worker.failures):
            log.error("worker %s loaded nothing in %g s", worker.pid, self._settings.worker_start_timeout_s)
            worker.kill()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_message(self, worker: WorkerProcess, message: Message) -> None:
        match message:
            case Hello():
                self._on_hello(worker, message)
            case Loaded(info):
                worker.models[info.name] = info
            case Failed(model, reason):
                worker.failures[model] = reason
            case Progress(batch, fraction):
                worker.progress[batch] = fraction
            case Ran():
                self._on_ran(worker, message)
        self._changed.set()
        self._metrics.workers_ready.set(sum(bool(each.models) for each in self.workers))
        self._dispatch()

    def _on_hello(self, worker: WorkerProcess, hello: Hello) -> None:
        """Learn the worker's device; the first of "auto" brings workers for the machine's other devices."""
        worker.device = hello.device
        worker.start = replace(worker.start, device=hello.device)
        if self._spread:
            return
        self._spread = True
        for device in hello.devices[1:]:
            for _ in range(self._settings.workers):
                self._add(device)

    def _on_exit(self, worker: WorkerProcess) -> None:
        """Replace a dead worker, and give its jobs to a healthy one: each once more, and alone."""
        self.workers.remove(worker)
        self._deaths = 1 if worker.models else self._deaths + 1
        for job in [job for jobs in reversed(worker.running.values()) for job in reversed(jobs)]:
            self._retry(job)
        if not self.draining:
            delay_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (self._deaths - 1))
            log.warning("a new worker for %s starts in %.1f s", worker.device, delay_s)
            self._metrics.worker_restarts.inc()
            self._add(worker.start.device, delay_s)
        self._dispatch()

    def _retry(self, job: Job) -> None:
        job.attempts += 1
        if job.attempts >= _MAX_ATTEMPTS:
            job.fail(InternalError("Two workers died while they computed this picture; it is not tried again."))
        elif not job.abandoned:
            self._metrics.retried.inc()
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
        )
        worker.send(run, jobs)

    def _on_ran(self, worker: WorkerProcess, ran: Ran) -> None:
        jobs = worker.running.pop(ran.batch)
        worker.progress.pop(ran.batch, None)
        lane = jobs[0].lane
        self._metrics.batch_size.labels(lane.model, lane.op).observe(len(jobs))
        self._metrics.batch_seconds.labels(lane.model, lane.op).observe(ran.compute_s)
        self._metrics.isolated.inc(ran.splits)
        if ran.fits is not None:
            self._batcher.cap(lane, ran.fits)
        for job, outcome in zip(jobs, ran.outcomes, strict=True):
            if isinstance(outcome, RowAnswer):
                job.answer(outcome, ran.compute_s, len(jobs))
            else:
                job.fail(outcome)
