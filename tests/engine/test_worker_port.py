"""Every implementation of the port of a worker: the same questions, the same answers."""

from __future__ import annotations

import asyncio
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pytest
import pytest_asyncio

from service.cam.targets import PLAIN, CamOptions, Targets
from service.engine.messages import (
    Hello,
    Lane,
    ModelFailed,
    ModelLoaded,
    ModelUnloaded,
    Progress,
    Ran,
    RowAnswer,
    Run,
    Start,
)
from service.engine.worker import WorkerSpec
from service.engine.worker_process import WorkerProcess
from service.engine.workers.in_process import InProcessWorker
from service.errors import InternalError
from service.models.info import ModelKey
from service.models.sources.source import Downloads
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.engine.messages import FromWorker
    from service.engine.worker import Launcher, Worker

    Said = TypeVar("Said", bound=FromWorker)


class Apart(WorkerProcess):
    """A process that shares no memory with this one, as on systems that have none to share."""

    async def start(self) -> None:
        await super().start()
        self._room = None


LAUNCHERS: dict[str, Launcher] = {"process": WorkerProcess, "apart": Apart, "in process": InProcessWorker}
SHAPES = ModelKey("shapes", 5)
CONFIG = ModelConfig(name="shapes", architecture="shapes")


class Ear:
    """Hears a worker."""

    def __init__(self) -> None:
        self.heard: list[FromWorker] = []
        self.exits: list[Worker] = []
        self._news = asyncio.Event()

    def on_message(self, _worker: Worker, message: FromWorker) -> None:
        self.heard.append(message)
        self._news.set()

    def on_exit(self, worker: Worker) -> None:
        self.exits.append(worker)
        self._news.set()

    async def next(self, kind: type[Said]) -> Said:
        """Wait for a message of this kind, and forget those before it."""
        async with asyncio.timeout(60):
            while True:
                for index, message in enumerate(self.heard):
                    if isinstance(message, kind):
                        del self.heard[: index + 1]
                        return message
                self._news.clear()
                await self._news.wait()

    async def exit(self) -> Worker:
        async with asyncio.timeout(60):
            while not self.exits:
                self._news.clear()
                await self._news.wait()
        return self.exits[0]


def spec(folder: Path) -> WorkerSpec:
    return WorkerSpec(3, Start("cpu", threads=2, concurrency=1, downloads=Downloads(folder)), silence_timeout_s=30.0)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture(params=LAUNCHERS)
async def worker(request: pytest.FixtureRequest, ear: Ear, tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker that has not been started."""
    made = LAUNCHERS[request.param](spec(tmp_path), ear)
    yield made
    await made.stop(5.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def workers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, tuple[Worker, Ear]]]:
    """One of each kind, with a model; what one test does to it is nothing to the next."""
    made = {}
    for kind, launch in LAUNCHERS.items():
        ear = Ear()
        made[kind] = launch(spec(tmp_path_factory.mktemp("downloads")), ear), ear
        await loaded(*made[kind])
    yield made
    for worker, _ in made.values():
        await worker.stop(5.0)


@pytest.fixture(params=LAUNCHERS)
def running(request: pytest.FixtureRequest, workers: dict[str, tuple[Worker, Ear]]) -> tuple[Worker, Ear]:
    worker, ear = workers[request.param]
    ear.heard.clear()
    return worker, ear


shared = pytest.mark.asyncio(loop_scope="module")


def run(batch: int, *, slow: bool = False, key: ModelKey = SHAPES) -> Run:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8)
    # Slow is minutes, so that no machine is through before it is told to stop.
    method, options = ("scorecam", CamOptions(smooth=64, flip=True)) if slow else ("gradcam", PLAIN)
    return Run(
        batch,
        Lane(key, "explain", ("layer4",), (method,), options, large=slow),
        pixels,
        (Targets((0, 1)), Targets((2,))),
        ("a", "b"),
    )


async def loaded(worker: Worker, ear: Ear) -> None:
    await worker.start()
    worker.load(SHAPES, CONFIG)
    await ear.next(ModelLoaded)


async def test_from_hello_to_the_last_answer(worker: Worker, ear: Ear) -> None:
    before = worker.snapshot
    assert (before.number, before.device, before.started, before.connected) == (3, "cpu", False, False)
    with pytest.raises(FrozenInstanceError):
        before.device = "cuda:0"  # type: ignore[misc]
    await worker.start()
    assert await ear.next(Hello) == Hello("cpu", ("cpu",))
    assert (worker.snapshot.started, worker.snapshot.greeted, worker.snapshot.connected) == (True, True, True)

    worker.load(SHAPES, CONFIG)
    ready = await ear.next(ModelLoaded)
    assert (ready.key, ready.info.key, ready.info.default_layer) == (SHAPES, SHAPES, "layer4")

    worker.send(run(7))
    ran = await ear.next(Ran)
    assert ran.batch == 7
    assert [[raw.target for raw in row.maps] for row in ran.outcomes if isinstance(row, RowAnswer)] == [[0, 1], [2]]

    await worker.stop(5.0)
    assert not worker.snapshot.connected
    assert ear.exits == [], "who was told to stop has not ended by itself"


@shared
async def test_a_model_that_is_dropped_is_not_computed_and_others_are(running: tuple[Worker, Ear]) -> None:
    worker, ear = running
    dropped = ModelKey("shapes", 6)
    worker.load(dropped, CONFIG)
    await ear.next(ModelLoaded)
    worker.unload(dropped)
    assert await ear.next(ModelUnloaded) == ModelUnloaded(dropped)
    worker.send(run(1, key=dropped))
    assert [type(outcome) for outcome in (await ear.next(Ran)).outcomes] == [InternalError] * 2
    worker.send(run(2))
    assert [type(outcome) for outcome in (await ear.next(Ran)).outcomes] == [RowAnswer] * 2


@shared
async def test_a_model_that_cannot_be_loaded_says_why_and_the_next_is_loaded(running: tuple[Worker, Ear]) -> None:
    worker, ear = running
    after = ModelKey("shapes", 7)
    worker.load(ModelKey("x", 1), ModelConfig(name="x", architecture="shapes", weights="x.safetensors"))
    worker.load(after, CONFIG)
    failed = await ear.next(ModelFailed)
    assert failed.key == ModelKey("x", 1)
    assert "comes with its weights" in failed.reason
    assert (await ear.next(ModelLoaded)).key == after


@shared
async def test_a_batch_that_nobody_waits_for_ends_early(running: tuple[Worker, Ear]) -> None:
    worker, ear = running
    worker.send(run(1, slow=True))
    await ear.next(Progress)
    worker.cancel(1)
    ran = await ear.next(Ran)
    assert [str(outcome) for outcome in ran.outcomes] == ["Nobody waits for this answer any more."] * 2
    worker.send(run(2))
    assert [type(outcome) for outcome in (await ear.next(Ran)).outcomes] == [RowAnswer] * 2


async def test_one_that_is_killed_says_once_why(worker: Worker, ear: Ear) -> None:
    await loaded(worker, ear)
    worker.kill("start_timeout")
    assert await ear.exit() is worker
    assert (worker.snapshot.ending, worker.snapshot.connected) == ("start_timeout", False)
    assert worker.snapshot.last_exit
    worker.send(run(1))  # too late, and no error
    await asyncio.sleep(0.1)
    assert ear.exits == [worker]
    assert not any(isinstance(message, Ran) for message in ear.heard)


async def test_one_that_was_never_started_can_be_stopped(worker: Worker) -> None:
    await worker.stop(5.0)
    assert not worker.snapshot.started


@shared
async def test_all_compute_the_same(workers: dict[str, tuple[Worker, Ear]]) -> None:
    maps = []
    for worker, ear in workers.values():
        ear.heard.clear()
        worker.send(run(1))
        maps.append([row.maps[0].values for row in (await ear.next(Ran)).outcomes if isinstance(row, RowAnswer)])
    for one, *others in zip(*maps, strict=True):
        for other in others:
            np.testing.assert_allclose(one, other, rtol=1e-5)


@shared
async def test_memory_is_used_again_when_a_batch_is_answered(workers: dict[str, tuple[Worker, Ear]]) -> None:
    worker, ear = workers["process"]
    assert isinstance(worker, WorkerProcess)
    if worker._room is None:
        pytest.skip("this system has none to share")
    worker.send(run(1))
    assert len(worker._room._taken) == 1
    await ear.next(Ran)
    assert not worker._room._taken


async def test_memory_is_gone_with_the_worker(ear: Ear, tmp_path: Path) -> None:
    worker = WorkerProcess(spec(tmp_path), ear)
    await worker.start()
    await ear.next(Hello)
    worker.kill("hung")
    await ear.exit()
    assert worker._room is None
    other = WorkerProcess(spec(tmp_path), ear)
    await other.start()
    await other.stop(5.0)
    assert other._room is None
