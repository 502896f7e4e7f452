"""Entries and workers: who computes what, and what becomes of entries whose worker died.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from service.engine.batcher import Batcher
from service.engine.cores import threads_of
from service.engine.lifecycle import Lifecycle
from service.engine.messages import Progress, Ran, RowAnswer, Run
from service.engine.registry import ModelStatus, Registry
from service.engine.spans import Spans
from service.engine.supervisor import Supervisor, backoff_s
from service.engine.worker_process import WorkerProcess
from service.errors import InternalError, NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from service.engine.entry import Entry
    from service.engine.messages import FromWorker, Lane
    from service.engine.supervisor import Slot
    from service.engine.worker import Launcher, Worker
    from service.metrics import Ending, Metrics
    from service.models.info import ModelInfo, ModelKey
    from service.settings import ModelConfig, Settings
    from service.vocabulary import WorkerState

__all__ = ["Pool", "WorkerStatus"]

_MAX_ATTEMPTS = 2

# Whoever comes next waits for a batch that computes: one of more than a picture is no longer than that, unless one
# client has a slow model to itself. Large ones, beside it, give way sooner.
_MAX_BATCH_S = 0.05


@dataclass(frozen=True)
class WorkerStatus:
    """A worker, as whoever operates the service sees it.

    Attributes:
        number: its place among the workers; a replacement has that of the worker it replaces.
        pid: of its process, once there is one.
        device: such as ``cuda:0``.
        state: how far it is.
        models: names of those that it answers for, sorted.
        batches: how many it computes.
        progress: batch number → share that is done, where a large batch has told.
        deaths: how many in its place died in a row without having been of use.
        last_exit: how the one before it ended.
        device_bytes: memory of its device, by kind, where it has told.
    """

    number: int
    pid: int | None
    device: str
    state: WorkerState
    models: tuple[str, ...]
    batches: int
    progress: Mapping[int, float]
    deaths: int
    last_exit: str | None
    device_bytes: Mapping[str, int]


@dataclass(eq=False)
class _Batch:
    """What was handed to a worker and is not answered yet."""

    number: int
    worker: int
    entries: list[Entry]
    progress: float | None = None

    @property
    def lane(self) -> Lane:
        return self.entries[0].lane


class Pool:
    """All workers of this service. Lives in one event loop, which alone may call it.

    Args:
        settings: all of them.
        metrics: counts what happens.
        spans: traces of batches; none if None.
        launch: makes workers; processes if not given.
        backoff: how long a worker's start is put off, by how many in its place died in a row.
        lifecycle: how far the service is; one of its own if None.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        spans: Spans | None = None,
        launch: Launcher = WorkerProcess,
        backoff: Callable[[int], float] = backoff_s,
        lifecycle: Lifecycle | None = None,
    ) -> None:
        self._metrics = metrics
        self._spans = spans or Spans()
        self._concurrency, self._threads = settings.concurrency, threads_of(settings)
        self._batcher: Batcher[Entry] = Batcher(settings.max_batch_size, settings.max_batch_pixels, _MAX_BATCH_S)
        self._running: dict[int, _Batch] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self.registry = Registry(self._on_drained)
        self.supervisor = Supervisor(settings, metrics, self.registry, self, launch, backoff)
        self.lifecycle = lifecycle or Lifecycle()
        self.before_load: Callable[[ModelInfo], None] = lambda _info: None
        for config in settings.models:
            self.registry.add(config)

    async def start(self) -> None:
        """Launch the first workers; models load while this returns."""
        await self.supervisor.start()

    def end(self) -> None:
        """Let go on who waits for models or workers, while there still are some."""
        self.lifecycle.end()
        self._changed.set()

    async def stop(self) -> None:
        """End the workers. Entries without an answer, running or waiting, fail with NotReady."""
        self.end()
        unanswered = [entry for batch in self._running.values() for entry in batch.entries]
        while waiting := self._batcher.next_batch(lambda _lane: True):
            unanswered += waiting
        for entry in unanswered:
            entry.fail(NotReady("The service is shutting down.", retry_after_s=5))
        await self.supervisor.stop()

    # -- models -------------------------------------------------------------------------------------------------------

    def load(self, config: ModelConfig) -> ModelKey:
        """Load a model, or a version that takes over from the present one of that name once it is ready."""
        key = self.registry.add(config)
        self.supervisor.load_if_it_can_be(key, config)
        return key

    def refuse(self, config: ModelConfig, reason: str) -> ModelKey:
        """Add a version that cannot be loaded, for people to see why."""
        key = self.registry.add(config)
        self.supervisor.refuse(key, reason)
        self._changed.set()
        return key

    def remove(self, name: str) -> None:
        """Forget a model; what has begun with it is finished.

        Raises:
            UnknownModel: there is none of that name.
        """
        self.registry.remove(name)
        self._changed.set()

    def put_out(self, key: ModelKey) -> None:
        """Have workers drop a version until somebody asks for it; what has begun with it is finished."""
        self.registry.put_out(key)
        self._changed.set()

    def wake(self, name: str | None = None, label: str | None = None) -> None:
        """Load a model that was put out, because somebody asks for it.

        Raises:
            UnknownModel, UnknownVersion: there is none.
        """
        if woken := self.registry.wake(name, label):
            self.supervisor.load_if_it_can_be(*woken, same_code=True)

    def _on_drained(self, key: ModelKey) -> None:
        self.supervisor.unload(key)
        self._batcher.forget(lambda model: model == key)
        if not self.registry.has(key.name):
            self._metrics.forget_model(key.name)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that hangs on models or workers, or until this is stopped."""
        while not self.lifecycle.over and not condition():
            await self.changed()

    async def changed(self) -> None:
        """Wait until a worker says something, or a model is changed."""
        self._changed.clear()
        await self._changed.wait()

    async def settled(self, name: str | None = None) -> None:
        """Wait until a model, by default the first, is no longer loading, or until this is stopped."""
        await self.until(lambda: self.status(name).state != "loading")

    def status(self, name: str | None = None, label: str | None = None) -> ModelStatus:
        """Tell how a model is; without a name, the default one.

        Args:
            name: of the model, or an alias.
            label: of one of its versions; that which the name points to if None.

        Raises:
            UnknownModel, UnknownVersion: there is none.
        """
        status = self.registry.status(name, label)
        if status.state == "loading" and (last_exit := self.supervisor.keeps_dying(status.config)):
            reason = (
                f"its worker process keeps dying; last time: {last_exit}. It is started again within half a minute."
            )
            return replace(status, state="failed", reason=reason)
        return status

    def statuses(self) -> list[ModelStatus]:
        """Tell how every model is, the default one first."""
        return [self.status(status.config.name) for status in self.registry.statuses()]

    def ready_info(self, name: str | None, label: str | None = None) -> ModelInfo:
        """Return what is known of a model that can answer now, or will once it is loaded on demand.

        Raises:
            UnknownModel, UnknownVersion: there is none.
            NotReady: it is loading, it failed to load, or the service is shutting down.
        """
        status = self.status(name, label)
        if self.lifecycle.over:
            raise NotReady("The service is shutting down.", retry_after_s=5)
        if status.info is not None:
            return status.info
        if status.on_demand and status.known is not None and status.state != "failed":
            return status.known
        model = status.config.name
        if status.state == "failed":
            raise NotReady(f"Model {model!r} cannot be loaded: {status.reason}", retry_after_s=60)
        raise NotReady(f"Model {model!r} is being loaded. Try again in a few seconds.", retry_after_s=2)

    async def available(self, name: str | None, label: str | None = None) -> None:
        """Wait for a model that is loaded again, and begin to where it was put out; one that is there is there at once.

        Raises:
            UnknownModel, UnknownVersion, NotReady: as :meth:`ready_info`.
        """
        self.ready_info(name, label)
        self.wake(name, label)
        await self.until(lambda: not self.status(name, label).on_demand or self.status(name, label).state == "failed")

    def lease(self, name: str | None, label: str | None = None) -> AbstractContextManager[ModelInfo]:
        """Hold on to the version of a model that answers now, for as long as the block takes.

        Raises:
            UnknownModel, UnknownVersion, NotReady: as :meth:`ready_info`.
        """
        self.ready_info(name, label)
        return self.registry.lease(name, label)

    # -- entries ------------------------------------------------------------------------------------------------------

    def submit(self, entry: Entry) -> None:
        """Queue ``entry`` and hand out what can be handed out."""
        self._batcher.submit(entry)
        self._dispatch()

    def withdraw(self, entry: Entry) -> None:
        """Forget ``entry``, whether it waits or is computed: nobody wants its answer."""
        if not self._batcher.withdraw(entry):
            for batch in self._running.values():
                if entry in batch.entries and all(each.abandoned for each in batch.entries):
                    self.supervisor.worker(batch.worker).cancel(batch.number)
        self._metrics.queue_depth.set(len(self._batcher))

    # -- workers ------------------------------------------------------------------------------------------------------

    def worker_statuses(self) -> list[WorkerStatus]:
        """Tell how every worker is."""
        return [self._status_of(slot) for slot in self.supervisor.slots]

    def _status_of(self, slot: Slot) -> WorkerStatus:
        snapshot, batches = slot.worker.snapshot, list(self._running_on(slot.number))
        return WorkerStatus(
            number=slot.number,
            pid=snapshot.pid,
            device=snapshot.device,
            state=self._state_of(slot),
            models=tuple(sorted({key.name for key in self.registry.held_by(slot.number)})),
            batches=len(batches),
            progress={batch.number: batch.progress for batch in batches if batch.progress is not None},
            deaths=slot.deaths,
            last_exit=slot.last_exit,
            device_bytes=snapshot.device_bytes,
        )

    def _state_of(self, slot: Slot) -> WorkerState:
        if self.registry.held_by(slot.number):
            return "ready"
        if not slot.worker.snapshot.started:
            return "waiting"
        if self.registry.missing(slot.number):
            return "loading"
        lacks = self.supervisor.wanted(slot) and not self.registry.unloaded_names()
        return "failed" if self.registry.failed_on(slot.number) or lacks else "ready"

    def is_busy(self, number: int) -> bool:
        """Whether a batch was handed to the worker of this number and is not answered."""
        return any(True for _ in self._running_on(number))

    def _running_on(self, worker: int) -> Iterator[_Batch]:
        return (batch for batch in self._running.values() if batch.worker == worker)

    def on_message(self, worker: Worker, message: FromWorker) -> None:
        """Take note of what a worker says of its batches; whatever it says may let others go on."""
        match message:
            case Progress(batch, fraction):
                self._running[batch].progress = fraction
            case Ran():
                self._on_ran(worker, message)
        self._changed.set()
        self._dispatch()

    def make_room(self, info: ModelInfo) -> None:
        """Let room be made for a model that is about to be loaded."""
        self.before_load(info)

    def on_change(self) -> None:
        """Let go on who waits for models."""
        self._changed.set()
        self._dispatch()

    def on_exit(self, worker: Worker, *, by_loading: bool = False) -> None:
        """Give a dead worker's entries to a healthy one, each alone: once, or as often as they are not to blame."""
        snapshot = worker.snapshot
        lost = list(self._running_on(snapshot.number))
        for batch in reversed(lost):
            del self._running[batch.number]
            for entry in reversed(batch.entries):
                entry.attempts += not by_loading
                self._retry(entry, snapshot.ending or "exited")
        self._changed.set()
        self._dispatch()

    def _retry(self, entry: Entry, ending: Ending) -> None:
        if entry.attempts >= _MAX_ATTEMPTS:
            entry.fail(InternalError("Two workers died while they computed this picture; it is not tried again."))
        elif not entry.abandoned:
            self._metrics.retried.labels(ending).inc()
            self._batcher.resubmit(entry)

    # -- batches ------------------------------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        """Give batches to workers until none is free or none fits; the least busy worker is served first."""
        handed_out = True
        while handed_out:
            handed_out = False
            for slot in sorted(self.supervisor.slots, key=lambda slot: len(list(self._running_on(slot.number)))):
                on_cores = slot.worker.snapshot.device == "cpu"
                batch = self._batcher.next_batch(partial(self._accepts, slot), self._threads if on_cores else 0)
                if batch:
                    self._send(slot, batch)
                    handed_out = True
        self._metrics.queue_depth.set(len(self._batcher))

    def _accepts(self, slot: Slot, lane: Lane) -> bool:
        """Whether a worker would compute a batch of ``lane`` at once.

        Not if its model is busy: it would wait for the lock. A large batch gives way to small ones between its slices,
        so it runs beside them, in a place of its own, and they never wait for its end.
        """
        if not (self.registry.holds(slot.number, lane.model) and slot.worker.snapshot.connected):
            return False
        rivals = [batch.lane for batch in self._running_on(slot.number) if batch.lane.large == lane.large]
        room = len(rivals) < (1 if lane.large else self._concurrency)
        return room and all(each.model != lane.model for each in rivals)

    def _send(self, slot: Slot, entries: list[Entry]) -> None:
        now = time.perf_counter()
        for entry in entries:
            entry.started_at = now
            self._metrics.stage_seconds.labels("queue").observe(now - entry.queued_at)
        run = Run(
            batch=next(self._numbers),
            lane=entries[0].lane,
            pixels=np.stack([entry.pixels for entry in entries]),  # (N, H, W, channels)
            targets=tuple(entry.targets for entry in entries),
            request_ids=tuple(entry.request_id for entry in entries),
            views=tuple(entry.view for entry in entries),
        )
        self._running[run.batch] = _Batch(run.batch, slot.number, entries)
        slot.worker.send(run)

    def _on_ran(self, worker: Worker, ran: Ran) -> None:
        entries = self._running.pop(ran.batch).entries
        lane = entries[0].lane
        self._metrics.batch_size.labels(lane.model.name, lane.op).observe(len(entries))
        self._metrics.batch_seconds.labels(lane.model.name, lane.op).observe(ran.compute_s)
        self._metrics.isolated.labels("error" if ran.fits is None else "memory").inc(ran.splits)
        self._spans.batch(worker.snapshot, entries, ran)
        self._batcher.learn(lane, len(entries), ran.fits)
        if ran.alone_s is not None:
            self._batcher.learn_pace(lane, len(entries), sum(entry.amount for entry in entries), ran.alone_s)
        for entry, outcome in zip(entries, ran.outcomes, strict=True):
            if isinstance(outcome, RowAnswer):
                entry.answer(outcome, ran.compute_s, len(entries))
            else:
                entry.fail(outcome)
