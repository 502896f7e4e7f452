"""Workers that tests speak for, and entries: what the tests of the pool and of its supervisor share."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from service.cam.targets import Targets
from service.engine.entry import Computed, Entry
from service.engine.messages import Hello, Lane, ModelFailed, ModelLoaded, ModelUnloaded, Ran, RowAnswer
from service.engine.pool import Pool
from service.engine.supervisor import backoff_s
from service.engine.worker import WorkerSnapshot
from service.imaging.preprocess import PreprocessSpec
from service.metrics import Metrics
from service.models.info import ModelInfo, ModelKey
from service.settings import ModelConfig, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.engine.messages import FromWorker, Run
    from service.engine.worker import Listener, WorkerSpec
    from service.metrics import Ending


class FakeWorker:
    """Implements the port of a worker: notes what it is told, and says what the test lets it say.

    Attributes:
        sent: batches it was given.
        cancelled: numbers of those that it was told to cancel.
        loads: models it was told to load, in that order.
        unloads: models it was told to drop.
    """

    separate = False

    def __init__(self, spec: WorkerSpec, listener: Listener) -> None:
        self.spec = spec
        self._listener = listener
        self.snapshot = WorkerSnapshot(spec.number, spec.start.device)
        self.sent: list[Run] = []
        self.cancelled: list[int] = []
        self.loads: list[ModelKey] = []
        self.unloads: list[ModelKey] = []
        self.stopped = False

    # -- the port -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        self.snapshot = replace(self.snapshot, started=True, connected=True, pid=4242)

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        assert key.name == config.name
        self.loads.append(key)

    def unload(self, key: ModelKey) -> None:
        self.unloads.append(key)

    def send(self, run: Run) -> None:
        self.sent.append(run)

    def cancel(self, batch: int) -> None:
        self.cancelled.append(batch)

    def kill(self, ending: Ending) -> None:
        self.die(f"killed: {ending}", ending)

    async def stop(self, timeout_s: float) -> None:  # noqa: ARG002  # the port's signature
        self.stopped = True

    # -- what the test lets it do -------------------------------------------------------------------------------------

    def say(self, message: FromWorker) -> None:
        self._listener.on_message(self, message)

    def greet(self, *devices: str) -> None:
        devices = devices or ("cpu" if self.snapshot.device == "auto" else self.snapshot.device,)
        self.snapshot = replace(self.snapshot, greeted=True, device=devices[0])
        self.say(Hello(devices[0], devices))

    def load_done(self, *names: str) -> None:
        """Say hello, and that it has loaded the latest of these that it was told to load."""
        self.greet()
        for name in names:
            key = self.key(name)
            self.say(ModelLoaded(key, replace(info(name), revision=key.revision)))

    def load_failed(self, name: str, reason: str) -> None:
        self.say(ModelFailed(self.key(name), reason))

    def unload_done(self) -> None:
        for key in self.unloads:
            self.say(ModelUnloaded(key))

    def key(self, name: str) -> ModelKey:
        return next(key for key in reversed(self.loads) if key.name == name)

    def answer(self, run: Run, outcomes: list[Any] | None = None, fits: int | None = None) -> None:
        rows = [RowAnswer(np.array([question.classes[0]], np.float32)) for question in run.targets]
        self.say(Ran(run.batch, outcomes or cast("list[Any]", rows), 0.01, fits, 0))

    def die(self, how: str = "exited with code 1", ending: Ending = "exited") -> None:
        self.snapshot = replace(self.snapshot, connected=False, ending=ending, last_exit=how)
        self._listener.on_exit(self)


class FakeLauncher:
    """Launches such workers.

    Attributes:
        launched: those that were started, in that order.
        unstartable: how many starts fail from now on.
    """

    def __init__(self, make: Callable[[WorkerSpec, Listener], FakeWorker] = FakeWorker) -> None:
        self._make = make
        self.launched: list[FakeWorker] = []
        self.unstartable = 0

    def __call__(self, spec: WorkerSpec, listener: Listener) -> FakeWorker:
        worker = self._make(spec, listener)
        start = worker.start

        async def start_if_possible() -> None:
            if self.unstartable:
                self.unstartable -= 1
                error = BlockingIOError(11, "Resource temporarily unavailable")
                worker.snapshot = replace(worker.snapshot, ending="not_started", last_exit=f"not started: {error}")
                raise error
            await start()
            self.launched.append(worker)

        worker.start = start_if_possible  # type: ignore[method-assign]
        return worker


class FakedPool(Pool):
    """A pool of such workers; a replacement starts at once, and ``delays`` has what it would have waited."""

    def __init__(self, chosen: Settings, launcher: FakeLauncher | None = None) -> None:
        self.launcher = launcher or FakeLauncher()
        self.delays: list[float] = []
        super().__init__(chosen, Metrics(), launch=self.launcher, backoff=self._at_once)

    def _at_once(self, deaths: int) -> float:
        self.delays.append(backoff_s(deaths))
        return 0.0

    @property
    def launched(self) -> list[FakeWorker]:
        return self.launcher.launched

    @property
    def workers(self) -> list[FakeWorker]:
        return [cast("FakeWorker", slot.worker) for slot in self.supervisor.slots]

    @property
    def worker(self) -> FakeWorker:
        (worker,) = self.workers
        return worker


def info(name: str) -> ModelInfo:
    return ModelInfo(name, "1", "toy", ("a",), PreprocessSpec("crop", 8, 8), (), "layer", "float32", "cpu", 1)


async def settle() -> None:
    """Let launches and callbacks happen."""
    for _ in range(5):
        await asyncio.sleep(0)


def settings(**changes: Any) -> Settings:
    names = changes.pop("names", ("m",))
    return Settings(models=tuple(ModelConfig(name=name, architecture="toy") for name in names), **changes)


async def start(chosen: Settings) -> AsyncIterator[FakedPool]:
    made = FakedPool(chosen)
    await made.start()
    await settle()
    yield made
    await made.stop()


def entry(number: int = 0, model: str = "m", revision: int = 1) -> Entry:
    loop = asyncio.get_running_loop()
    pixels = np.full((8, 8, 3), number, np.uint8)
    future: asyncio.Future[Computed] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # counts as retrieved
    return Entry(Lane(ModelKey(model, revision), "explain"), pixels, Targets((number,)), future, loop.time())


def number_of(done: Entry) -> int:
    return int(done.future.result().answer.logits[0])
