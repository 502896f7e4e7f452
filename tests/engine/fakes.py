"""Workers without a process, and jobs: what the tests of the pool and of its supervisor share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from service.cam.targets import Targets
from service.engine import supervisor
from service.engine.jobs import Computed, Job
from service.engine.messages import Hello, Lane, Loaded, Ran, RowAnswer
from service.engine.pool import Pool
from service.engine.process import WorkerProcess
from service.imaging.preprocess import PreprocessSpec
from service.metrics import Metrics
from service.models.info import ModelInfo
from service.settings import ModelConfig, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from service.engine.messages import Message, Run


class FakeWorker(WorkerProcess):
    """A worker without a process: the test speaks for it."""

    launched: list[FakeWorker] = []  # noqa: RUF012  # shared on purpose: the pool creates them
    connected = True
    unstartable = 0  # how many launches fail from now on

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: list[Run] = []
        self.written: list[Message] = []
        self.stopped = False

    def _write(self, message: Message) -> None:
        self.written.append(message)

    @property
    def pid(self) -> int | None:
        return 4242 if self.greeted else None

    async def launch(self) -> None:
        if self.unstartable:
            FakeWorker.unstartable -= 1
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.launched.append(self)

    def send(self, run: Run, jobs: list[Job]) -> None:
        self.running[run.batch] = jobs
        self.sent.append(run)

    async def stop(self, timeout_s: float) -> None:  # noqa: ARG002  # the real one's signature
        self.stopped = True

    def say(self, message: Message) -> None:
        self._on_message(self, message)

    def load(self, *names: str) -> None:
        self.say(Hello("cpu", ("cpu",)))
        for name in names:
            self.say(Loaded(info(name)))

    def answer(self, run: Run, outcomes: list[Any] | None = None, fits: int | None = None) -> None:
        rows = [RowAnswer(np.array([question.classes[0]], np.float32)) for question in run.questions]
        self.say(Ran(run.batch, outcomes or cast("list[Any]", rows), 0.01, fits, 0))

    def die(self, how: str = "exited with code 1") -> None:
        self.last_exit = how
        self._on_exit(self)

    def kill(self, reason: Any = None) -> None:
        self.die(f"killed: {reason}")


def replace_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the supervisor of this test start such workers."""
    monkeypatch.setattr(supervisor, "WorkerProcess", FakeWorker)
    FakeWorker.launched = []
    FakeWorker.unstartable = 0


def info(name: str) -> ModelInfo:
    return ModelInfo(name, "1", "toy", ("a",), PreprocessSpec("crop", 8, 8), (), "layer", "float32", "cpu", 1)


async def settle() -> None:
    """Let launches and callbacks happen; the shortest backoff is 0.1 s."""
    await asyncio.sleep(0.15)


def settings(**changes: Any) -> Settings:
    names = changes.pop("names", ("m",))
    return Settings(models=tuple(ModelConfig(name=name, architecture="toy") for name in names), **changes)


async def start(chosen: Settings) -> AsyncIterator[Pool]:
    made = Pool(chosen, Metrics())
    await made.start()
    await settle()
    yield made
    await made.stop()


def job(number: int = 0, model: str = "m") -> Job:
    loop = asyncio.get_running_loop()
    pixels = np.full((8, 8, 3), number, np.uint8)
    future: asyncio.Future[Computed] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())  # counts as retrieved
    return Job(Lane(model, "explain"), pixels, Targets((number,)), future, loop.time())


def number_of(done: Job) -> int:
    return int(done.future.result().answer.logits[0])
