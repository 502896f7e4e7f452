"""The worker processes: one or more on every device, watched, and replaced when they die or hang."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from service.engine.cores import available_cores
from service.engine.messages import Failed, Hello, Loaded, Start
from service.engine.process import WorkerProcess
from service.models.sources.source import Downloads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from service.engine.messages import Message
    from service.metrics import Metrics
    from service.settings import Settings

__all__ = ["KEEPS_DYING", "Supervisor"]

log = logging.getLogger("camserve.pool")

# So many deaths in a row, with nothing answered in between, are no accident any more.
KEEPS_DYING = 3

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 30.0

# The watchdog counts ticks without a sign of life rather than seconds: after this process itself was held up, by a
# debugger or a busy machine, the workers' signs of life still lie unread and nobody must be killed for that.
_TICKS = 6


class Supervisor:
    """Keeps as many workers alive as the settings ask for. Lives in one event loop, which alone may call it.

    Args:
        settings: how many workers, where, and how long they may be silent.
        metrics: counts restarts, and workers by their state.
        on_message: hears what workers say, after this object has taken note of it.
        on_lost: gets a worker that has ended, once; its jobs are the caller's to save.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        on_message: Callable[[WorkerProcess, Message], None],
        on_lost: Callable[[WorkerProcess], None],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._on_message = on_message
        self._on_lost = on_lost
        self._tasks: set[asyncio.Task[None]] = set()
        self._spread = settings.device != "auto"
        # Model → how many workers died while they loaded it: at all, and with other models loaded before.
        self._deadly: Counter[str] = Counter()
        self._fatal: Counter[str] = Counter()
        self._stopping = False
        self.workers: list[WorkerProcess] = []

    async def start(self) -> None:
        """Launch the first workers; models load while this returns."""
        for _ in range(self._settings.workers):
            self._add(self._settings.device)
        self._spawn(self._watch())

    async def stop(self) -> None:
        """End the workers."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*(worker.stop(timeout_s=5.0) for worker in self.workers))

    # -- life and death -----------------------------------------------------------------------------------------------

    def _add(self, device: str, deaths: int = 0, last_exit: str | None = None) -> None:
        settings = self._settings
        fatal = [name for name, times in self._fatal.items() if times >= KEEPS_DYING]
        start = Start(
            # A suspect goes last: if it is to blame, the others are loaded first, which proves it.
            models=tuple(
                config
                for config in sorted(settings.models, key=lambda config: self._deadly[config.name])
                if config.name not in fatal
            ),
            downloads=Downloads(settings.cache_dir, settings.allow_download, settings.weights_mirror),
            device=device,
            threads=settings.threads or max(1, available_cores() // settings.workers),
            concurrency=settings.concurrency,
            log_level=settings.log_level,
            log_format=settings.log_format,
        )
        worker = WorkerProcess(start, self.on_message, self.on_exit)
        worker.deaths, worker.last_exit = deaths, last_exit
        taken = {each.number for each in self.workers}
        worker.number = next(number for number in itertools.count() if number not in taken)
        worker.failures = dict.fromkeys(fatal, "The worker process dies whenever it loads this model.")
        self.workers.append(worker)
        self._spawn(self._launch(worker, _backoff_s(deaths)))

    async def _launch(self, worker: WorkerProcess, delay_s: float) -> None:
        """Start a worker, and give up what it has not loaded in time."""
        await asyncio.sleep(delay_s)
        try:
            await worker.launch()
        except OSError as error:  # no process or no descriptor is left on this machine: later, perhaps
            worker.ended, worker.last_exit = "not_started", f"not started: {error}"
            log.error("a worker for %s cannot be started: %s", worker.device, error)
            self.on_exit(worker)
            return
        limit_s = self._settings.worker_start_timeout_s
        await asyncio.sleep(limit_s)
        if worker not in self.workers:
            return
        if not (worker.models or worker.failures):
            log.error("worker %s loaded nothing in %g s", worker.pid, limit_s)
            worker.kill("start_timeout")
            return
        for name in worker.missing():
            # Killing it would take away the models that answer.
            self.on_message(worker, Failed(name, f"It was not loaded within {limit_s:g} s."))

    async def _watch(self) -> None:
        """Replace workers that are silent, or compute a batch in silence, for too long."""
        limit_s = self._settings.worker_silence_timeout_s
        while True:
            await asyncio.sleep(limit_s / _TICKS)
            for worker in list(self.workers):
                if what := worker.tick(patience=_TICKS):
                    log.error("worker %s on %s hangs: %s for %g s", worker.pid, worker.device, what, limit_s)
                    worker.kill("hung")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what workers say ---------------------------------------------------------------------------------------------

    def on_message(self, worker: WorkerProcess, message: Message) -> None:
        """Take note of what a worker says of itself, and pass it on."""
        worker.heard(message)
        match message:
            case Hello():
                self._on_hello(worker, message)
            case Loaded(info):
                worker.models[info.name] = info
                worker.failures.pop(info.name, None)
                self._deadly.pop(info.name, None)
                self._fatal.pop(info.name, None)
            case Failed(model, reason):
                worker.failures[model] = reason
        self._on_message(worker, message)

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

    def on_exit(self, worker: WorkerProcess) -> None:
        """Replace a worker that has ended; at once if it was of use, else later and later."""
        self.workers.remove(worker)
        self._blame(worker)
        if not self._stopping:
            deaths = 1 if worker.useful else worker.deaths + 1
            log.warning("a new worker for %s starts in %.1f s", worker.device, _backoff_s(deaths))
            self._metrics.worker_restarts.labels(worker.ended).inc()
            self._add(worker.start.device, deaths, worker.last_exit)
        self._on_lost(worker)

    def _blame(self, worker: WorkerProcess) -> None:
        """Remember the model that was being loaded, unless a batch may have been the reason.

        That others were loaded before tells a bad model from a machine on which nothing can be loaded.
        """
        missing = worker.missing()
        if worker.greeted and missing and not worker.running:
            self._deadly[missing[0]] += 1
            self._fatal[missing[0]] += bool(worker.models)


def _backoff_s(deaths: int) -> float:
    return min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (deaths - 1)) if deaths else 0.0
