"""Keeps workers alive: one or more on every device, told what to load, and replaced when they end.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from service.engine.cores import threads_of
from service.engine.messages import (
    Hello,
    ModelComputes,
    ModelFailed,
    ModelLoaded,
    ModelProgress,
    ModelUnloaded,
    Ran,
    Start,
)
from service.engine.trial import TRIAL, Trials
from service.engine.worker import Listener, WorkerSpec
from service.model_config import whole_device
from service.models.sources.source import Downloads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from service.engine.messages import FromWorker
    from service.engine.registry import Registry
    from service.engine.worker import Launcher, Worker
    from service.metrics import Metrics
    from service.models.info import ModelInfo, ModelKey
    from service.settings import ModelConfig, Settings

__all__ = ["KEEPS_DYING", "BusyListener", "Slot", "Supervisor", "backoff_s"]

log = logging.getLogger("camserve.pool")

# So many deaths in a row, with nothing answered in between, are no accident any more.
KEEPS_DYING = 3

_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.1, 30.0


@dataclass(eq=False)
class Slot:
    """A worker's place: who is in it, and what became of those before.

    Attributes:
        worker: the one that is there now, or waits to be started.
        own: whether its device is one of the service's own, not of models that name another.
        deaths: how many before it died in a row without having been of use.
        last_exit: how the one before it ended.
        useful: whether it has answered a batch.
    """

    worker: Worker
    own: bool = True
    deaths: int = 0
    last_exit: str | None = None
    useful: bool = False

    @property
    def number(self) -> int:
        """The place's number, which replacements keep."""
        return self.worker.snapshot.number

    def takes(self, config: ModelConfig) -> bool:
        """Whether a model is loaded here: on the device that it names, or on each of the service's own."""
        device = self.worker.snapshot.device
        return self.own if config.device is None else whole_device(device) == whole_device(config.device)


class BusyListener(Listener, Protocol):
    """Who hears from workers and knows what they compute."""

    def is_busy(self, number: int) -> bool:
        """Whether a batch was handed to the worker of this number and is not answered."""

    def on_change(self) -> None:
        """Models are other than before, though no worker has said anything."""

    def make_room(self, info: ModelInfo) -> None:
        """A model is about to be loaded by the workers."""

    def on_exit(self, worker: Worker, *, by_loading: bool = False) -> None:
        """A worker has ended; ``by_loading``, because of a model that none will load again."""


class Supervisor:
    """Keeps as many workers alive as the settings ask for. Lives in one event loop, which alone may call it.

    Args:
        settings: how many workers, where, and how long they may be silent.
        metrics: counts restarts.
        registry: what is to be loaded; learns what workers hold.
        pool: hears what workers say and that they ended, after this object has taken note of it.
        launch: makes workers.
        backoff_s: how long a worker's start is put off, by how many in its place died in a row.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        registry: Registry,
        pool: BusyListener,
        launch: Launcher,
        backoff_s: Callable[[int], float],
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._registry = registry
        self._pool = pool
        self._launch = launch
        self._backoff_s = backoff_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._spread = settings.device != "auto"
        self._numbers = itertools.count()
        # Model → how many workers died while they loaded it: at all, and with other models loaded before.
        self._deadly: Counter[ModelKey] = Counter()
        self._fatal: Counter[ModelKey] = Counter()
        # Model → why no worker is to load it.
        self._refused: dict[ModelKey, str] = {}
        # Those that a process of their own has loaded, before workers do.
        self._tried: set[ModelKey] = set()
        # Of these a trial was the first half of loading; others had been proven before.
        self._halfway: set[ModelKey] = set()
        self._trials = Trials(self._launch_trial, self, settings.worker_start_timeout_s)
        self._stopping = False
        self.slots: list[Slot] = []

    async def start(self) -> None:
        """Launch the first workers; models load while this returns."""
        await self._trials.spare(self._registry.wanted())
        for _ in range(self._settings.workers):
            self._open(self._settings.device)
        self._open_for([config for _, config in self._registry.wanted()])

    async def stop(self) -> None:
        """End the workers."""
        self._stopping = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(self._trials.stop(), *(slot.worker.stop(timeout_s=5.0) for slot in self.slots))

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        """Have every worker of its device load a model; one that cannot be told yet does when it has started."""
        self._open_for([config])
        for slot in self.slots:
            if slot.worker.snapshot.connected and slot.takes(config):
                self._load(slot.worker, [(key, config)])

    def load_if_it_can_be(self, key: ModelKey, config: ModelConfig, *, same_code: bool = False) -> None:
        """Try a model in a process of its own, if workers are processes, and have every worker load it then.

        Args:
            key: of the model.
            config: what it is loaded from; what could be loaded before is not tried again.
            same_code: whether a function of the user's is what it was.
        """
        if any(slot.worker.separate for slot in self.slots):
            self._try(key, config, same_code=same_code)
        else:
            self.load(key, config)

    def refuse(self, key: ModelKey, reason: str) -> None:
        """Let no worker load a model."""
        self._refused[key] = reason
        self._registry.failed(TRIAL, key, reason, for_all=True)

    def unload(self, key: ModelKey) -> None:
        """Have every worker drop a model that it holds or may come to hold."""
        self._acquit(key)
        self._refused.pop(key, None)
        self._tried.discard(key)
        self._halfway.discard(key)
        for slot in self.slots:
            if slot.number in self._registry.involved(key):
                slot.worker.unload(key)
        if self._is_tried(key):
            self._trials.forget(key)
            self._registry.unloaded(TRIAL, key)

    def worker(self, number: int) -> Worker:
        """Return the worker that has a place now."""
        return next(slot.worker for slot in self.slots if slot.number == number)

    def keeps_dying(self, config: ModelConfig) -> str | None:
        """Tell how the workers of a model end, where all keep dying without having been of use; None where not."""
        slots = [slot for slot in self.slots if slot.takes(config)] or self.slots
        if slots and all(slot.deaths >= KEEPS_DYING for slot in slots):
            return slots[0].last_exit
        return None

    def wanted(self, slot: Slot) -> list[tuple[ModelKey, ModelConfig]]:
        """Return what a worker is to hold, whether it has been told so or not."""
        return [(key, config) for key, config in self._registry.wanted() if slot.takes(config)]

    # -- life and death -----------------------------------------------------------------------------------------------

    def _open(self, device: str, *, own: bool = True) -> None:
        """Open another place for a worker."""
        slot = Slot(self._make(next(self._numbers), device), own)
        self.slots.append(slot)
        self._spawn(self._start(slot, 0.0))

    def _make(self, number: int, device: str) -> Worker:
        return self._launch(WorkerSpec(number, self._how(device), self._settings.worker_silence_timeout_s), self)

    def _how(self, device: str, *, expendable: bool = False) -> Start:
        """Say where and how a worker computes."""
        settings = self._settings
        return Start(
            device=device,
            threads=threads_of(settings),
            concurrency=settings.concurrency,
            downloads=Downloads(settings.cache_dir, settings.allow_download, settings.weights_mirror),
            log_level=settings.log_level,
            log_format=settings.log_format,
            expendable=expendable,
        )

    async def _start(self, slot: Slot, delay_s: float) -> None:
        """Start the worker of a place, after a delay, and have it load what is wanted."""
        worker = slot.worker
        await asyncio.sleep(delay_s)
        try:
            await worker.start()
        except OSError as error:  # no process or no descriptor is left on this machine: later, perhaps
            log.error("a worker for %s cannot be started: %s", worker.snapshot.device, error)
            self.on_exit(worker)
            return
        wanted = self._loadable(slot)
        # A suspect goes last: if it is to blame, the others are loaded first, which proves it.
        wanted.sort(key=lambda each: self._deadly[each[0]])
        suspects = [each for each in wanted if self._deadly[each[0]]]
        if worker.separate and len(suspects) < len(wanted):
            for key, config in suspects:
                self._try(key, config)
            wanted = wanted[: -len(suspects) or None]
        self._load(worker, wanted)

    def _loadable(self, slot: Slot) -> list[tuple[ModelKey, ModelConfig]]:
        """Return what a worker is to hold, was not told to load, and nothing speaks against."""
        return [
            (key, config)
            for key, config in self.wanted(slot)
            if slot.number not in self._registry.involved(key) and key not in self._refused and not self._is_tried(key)
        ]

    def _load(self, worker: Worker, models: Sequence[tuple[ModelKey, ModelConfig]]) -> None:
        """Have a worker load models, and give up what it has not loaded in time."""
        keys = [key for key, _ in models]
        self._registry.told(worker.snapshot.number, keys)
        for key, config in models:
            worker.load(key, config)
        self._spawn(self._give_up_late(worker, keys))

    async def _give_up_late(self, worker: Worker, keys: Sequence[ModelKey]) -> None:
        number, limit_s = worker.snapshot.number, self._settings.worker_start_timeout_s
        await asyncio.sleep(limit_s)
        if all(slot.worker is not worker for slot in self.slots):
            return
        late = [key for key in keys if key in self._registry.missing(number)]
        if late and not (self._registry.held_by(number) or self._registry.failed_on(number)):
            log.error("worker %s loaded nothing in %g s", worker.snapshot.pid, limit_s)
            worker.kill("start_timeout")
            return
        for key in late:
            # Killing it would take away the models that answer.
            self.on_message(worker, ModelFailed(key, f"It was not loaded within {limit_s:g} s."))

    def _slot_of(self, worker: Worker) -> Slot:
        return next(slot for slot in self.slots if slot.worker is worker)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what workers say, and their end ------------------------------------------------------------------------------

    def on_message(self, worker: Worker, message: FromWorker) -> None:
        """Take note of what a worker says, and pass it on."""
        number = worker.snapshot.number
        match message:
            case Hello(_, devices):
                self._spread_over(devices)
                self._load_what_names_its_device(self._slot_of(worker))
            case ModelProgress(key, fraction) if key in self._halfway:
                self._registry.progressed(number, key, 0.5 + fraction / 2, "taking over")
            case ModelProgress(key, fraction, stage):
                self._registry.progressed(number, key, fraction, stage)
            case ModelLoaded(key, info):
                self._acquit(key)
                self._metrics.model_loads.labels("loaded").inc()
                if info.precision.refused is not None:
                    self._metrics.precision_refused.labels(info.precision.refused).inc()
                self._registry.loaded(number, key, info)
                self._trials.loaded(key, info)
            case ModelComputes(key, computing):
                self._registry.computes(number, key, computing)
            case ModelFailed(key, reason):
                self._metrics.model_loads.labels("failed").inc()
                self._registry.failed(number, key, reason)
            case ModelUnloaded(key):
                self._registry.unloaded(number, key)
                self._close_if_idle(self._slot_of(worker))
            case Ran():
                self._slot_of(worker).useful = True
        self._pool.on_message(worker, message)

    def _spread_over(self, devices: Sequence[str]) -> None:
        """The first worker of "auto" brings workers for the machine's other devices."""
        if self._spread:
            return
        self._spread = True
        for device in devices[1:]:
            for _ in range(self._settings.workers):
                self._open(device)
        self._open_for([config for _, config in self._registry.wanted()])

    def _open_for(self, configs: Sequence[ModelConfig]) -> None:
        """Bring workers for devices that models name and no worker has, once it is known which the service has."""
        for config in configs if self._spread else ():
            if config.device is not None and not any(slot.takes(config) for slot in self.slots):
                for _ in range(self._settings.workers):
                    self._open(whole_device(config.device), own=False)

    def _close_if_idle(self, slot: Slot) -> None:
        """End the worker of a device that is none of the service's own and that no model names any more."""
        if not (slot.own or any(slot.takes(config) for config in self._registry.every_config())):
            self.slots.remove(slot)
            self._spawn(slot.worker.stop(timeout_s=5.0))

    def _load_what_names_its_device(self, slot: Slot) -> None:
        """Have a worker that has just said which device it took load what waited for that."""
        if waited := self._loadable(slot):
            self._load(slot.worker, waited)

    def on_exit(self, worker: Worker) -> None:
        """Put another worker in the place of one that has ended: at once if it was of use, else later and later."""
        slot, state = self._slot_of(worker), worker.snapshot
        by_loading = self._blame(slot, greeted=state.greeted)
        self._registry.lost(slot.number)
        if not self._stopping:
            slot.deaths = 1 if slot.useful else slot.deaths + 1
            slot.last_exit, slot.useful = state.last_exit, False
            delay_s = self._backoff_s(slot.deaths)
            log.warning("a new worker for %s starts in %.1f s", state.device, delay_s)
            self._metrics.worker_restarts.labels(state.ending).inc()
            slot.worker = self._make(slot.number, state.device)
            self._leave_out_refused(slot)
            self._spawn(self._start(slot, delay_s))
        self._pool.on_exit(worker, by_loading=by_loading)

    # -- models that kill ---------------------------------------------------------------------------------------------

    def _blame(self, slot: Slot, *, greeted: bool) -> bool:
        """Remember the model that was being loaded: it is tried aside before a worker loads it again, or given up.

        That others were loaded before tells a bad model from a machine on which nothing can be loaded. A batch may have
        been the reason as well, unless the model could be loaded aside, and it is here that it cannot.

        Returns:
            Whether it is given up.
        """
        missing = self._registry.missing(slot.number)
        if not (greeted and missing):
            return False
        key, busy = missing[0], self._pool.is_busy(slot.number)
        self._deadly[key] += 1
        version = self._registry.version(key)
        if version is not None:
            self._trials.doubt(version.config)
        tried = key in self._tried
        self._fatal[key] += bool(self._registry.held_by(slot.number)) and (tried or not busy)
        # It takes what answers along: once is enough, where nobody has had an answer of it.
        if self._fatal[key] >= (1 if tried and not self._registry.has_answered(key) else KEEPS_DYING):
            perhaps = " Pictures were computed meanwhile; if they may be the reason, load it once more." if busy else ""
            self._refused[key] = _killed(slot.worker.snapshot.last_exit) + perhaps
        return key in self._refused

    def _leave_out_refused(self, slot: Slot) -> None:
        for key, _ in self.wanted(slot):
            if key in self._refused:
                self._registry.failed(slot.number, key, self._refused[key], for_all=True)

    def _acquit(self, key: ModelKey) -> None:
        self._deadly.pop(key, None)
        self._fatal.pop(key, None)

    # -- models that are tried ----------------------------------------------------------------------------------------

    def _launch_trial(self, listener: Listener) -> Worker:
        start = self._how(self._settings.device, expendable=True)
        return self._launch(WorkerSpec(TRIAL, start, self._settings.worker_silence_timeout_s), listener)

    def _try(self, key: ModelKey, config: ModelConfig, *, same_code: bool = False) -> None:
        if not self._is_tried(key):
            self._registry.told(TRIAL, [key])
            self._trials.begin(key, config, same_code=same_code)

    def _is_tried(self, key: ModelKey) -> bool:
        """Whether a model is being tried, waits for it, or will be tried once more."""
        return key in self._registry.missing(TRIAL)

    def on_trial_progress(self, message: ModelProgress) -> None:
        """Count loading in the process that tries models as the first half."""
        self._halfway.add(message.key)
        self._registry.progressed(TRIAL, message.key, message.fraction / 2, message.stage)
        self._pool.on_change()

    def on_tried(self, key: ModelKey, config: ModelConfig, info: ModelInfo) -> None:
        """Have workers load what can be loaded."""
        self._tried.add(key)
        self._pool.make_room(info)
        self.load(key, config)
        if key in self._halfway:
            for slot in self.slots:
                self._registry.progressed(slot.number, key, 0.5, "taking over")
        self._registry.unloaded(TRIAL, key)
        self._pool.on_change()

    def on_trial_failed(self, key: ModelKey, reason: str) -> None:
        """Give a model up that cannot be loaded."""
        self._metrics.model_loads.labels("failed").inc()
        self._registry.failed(TRIAL, key, reason, for_all=True)
        self._pool.on_change()

    def on_trial_died(self, key: ModelKey, config: ModelConfig, last_exit: str) -> None:
        """Give a model up that kills whoever loads it.

        One that has killed a worker before is tried again while nothing else can be loaded either: the machine may be
        the reason.
        """
        log.error("model %s ended the process that tried it: %s", key.name, last_exit)
        if self._deadly[key] and not any(self._registry.held_by(slot.number) for slot in self.slots):
            self._deadly[key] += 1
            self._spawn(self._try_later(key, config))
            return
        self._metrics.model_loads.labels("failed").inc()
        self.refuse(key, _killed(last_exit))
        self._pool.on_change()

    async def _try_later(self, key: ModelKey, config: ModelConfig) -> None:
        await asyncio.sleep(self._backoff_s(self._deadly[key]))
        if self._is_tried(key):
            self._trials.begin(key, config)


def _killed(last_exit: str | None) -> str:
    """Say that loading a model ends the process, and how."""
    hint = " That is what the system does where memory runs out." if last_exit == "killed by SIGKILL" else ""
    return f"Loading it ends the process: {last_exit or 'it ended'}.{hint}"


def backoff_s(deaths: int) -> float:
    """Return how long to wait: longer after every death, half a minute at most."""
    return min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2 ** (deaths - 1)) if deaths else 0.0
