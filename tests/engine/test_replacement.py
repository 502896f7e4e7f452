"""A model is replaced while it serves: nobody waits, nobody is lost, and what is not needed any more goes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.engine.workers.in_process import InProcessWorker
from service.metrics import Metrics
from service.settings import ModelConfig, load_settings
from tests.engine.fakes import FakedPool, FakeLauncher, FakeWorker, entry, number_of, settings, settle, start
from tests.toys import png
from tests.web.application import until

if TYPE_CHECKING:
    from service.models.info import ModelKey

NEW = ModelConfig(name="m", architecture="toy", version="2")


async def test_a_new_version_is_loaded_beside_the_old_one_by_every_worker() -> None:
    async for pool in start(settings(workers=2)):
        first, second = pool.launched
        first.load_done("m")
        second.load_done("m")
        key = pool.load(NEW)
        await settle()
        assert (first.loads[-1], second.loads[-1]) == (key, key)
        first.load_done("m")
        assert pool.ready_info("m").revision == 1
        second.load_done("m")
        assert pool.ready_info("m").revision == key.revision
        assert [worker.unloads for worker in (first, second)] == [[first.loads[0]]] * 2


async def test_an_entry_of_the_old_version_is_computed_by_it_and_then_it_goes(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    with pool.lease("m") as info:
        waiting = entry(7, revision=info.revision)
        pool.submit(waiting)
        pool.load(NEW)
        await settle()
        worker.load_done("m")
        late = entry(8, revision=info.revision)  # decoded only after the other version took over
        pool.submit(late)
        worker.answer(worker.sent[0])
        worker.answer(worker.sent[1])
        assert {run.lane.model for run in worker.sent} == {info.key}
        assert worker.unloads == []
    assert worker.unloads == [info.key]
    assert (number_of(waiting), number_of(late)) == (7, 8)


async def test_a_worker_that_starts_meanwhile_loads_what_is_still_needed(pool: FakedPool) -> None:
    pool.worker.load_done("m")
    with pool.lease("m") as info:
        waiting = entry(7, revision=info.revision)
        pool.submit(waiting)
        pool.load(NEW)
        await settle()
        pool.worker.load_done("m")
        pool.worker.die()
        await settle()
        old, new = pool.worker.loads
        assert old == info.key
        pool.worker.load_done("m")
        assert not pool.worker.sent, "it waits for its own version"
        pool.worker.loads = [old]
        pool.worker.load_done("m")
        pool.worker.answer(pool.worker.sent[0])
        assert number_of(waiting) == 7
    assert new in pool.registry.held_by(0)


async def test_versions_that_are_superseded_at_once_go_again(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    *superseded, latest = [pool.load(NEW) for _ in range(3)]
    await settle()
    assert (worker.loads[1:], worker.unloads) == ([*superseded, latest], superseded)
    worker.unload_done()
    worker.load_done("m")
    assert (pool.ready_info("m").revision, pool.registry.missing(0)) == (latest.revision, [])


async def test_a_worker_that_is_just_starting_is_told_once() -> None:
    reachable = asyncio.Event()

    class Starting(FakeWorker):
        async def start(self) -> None:
            self.snapshot = replace(self.snapshot, started=True)
            await reachable.wait()
            await super().start()

    pool = FakedPool(settings(), FakeLauncher(Starting))
    await pool.start()
    await settle()
    new = pool.load(NEW)
    await settle()
    reachable.set()
    await settle()
    assert (pool.worker.loads[1:], pool.registry.missing(0)) == ([new], pool.worker.loads)
    await pool.stop()


async def test_a_version_that_comes_late_and_is_superseded_is_dropped() -> None:
    async for pool in start(settings(worker_start_timeout_s=0.1)):
        worker = pool.worker
        worker.load_done("m")
        late = pool.load(NEW)
        await until(partial(pool.registry.failed_on, 0))
        pool.load(NEW)
        assert worker.unloads == [late], "the worker may still be loading it"


async def test_a_version_that_cannot_be_loaded_changes_nothing(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    pool.load(NEW)
    await settle()
    worker.load_failed("m", "the file is missing")
    assert (pool.status("m").state, pool.ready_info("m").revision) == ("ready", 1)
    assert worker.unloads == []


async def test_a_version_that_kills_the_worker_is_given_up_and_the_old_one_serves_again(pool: FakedPool) -> None:
    pool.worker.load_done("m")
    pool.load(NEW)
    for _ in range(3):
        await settle()
        loads = list(pool.worker.loads)
        pool.worker.loads = loads[:1]
        pool.worker.load_done("m")  # the old one
        pool.worker.loads = loads
        pool.worker.die("killed by SIGKILL")
    await settle()
    assert [key.revision for key in pool.worker.loads] == [1]
    pool.worker.load_done("m")
    assert pool.ready_info("m").revision == 1
    assert [each.state for each in pool.registry.versions("m")] == ["ready", "failed"]


async def replacing(pool: FakedPool) -> tuple[FakeWorker, FakeWorker, ModelKey]:
    """Let two workers hold a model, and the first of them its next version, too; the second is still loading it."""
    first, second = pool.launched
    first.load_done("m")
    second.load_done("m")
    new = pool.load(NEW)
    await settle()
    first.load_done("m")
    return first, second, new


async def test_of_two_workers_one_dies_once_while_it_loads_and_nobody_answers_alone() -> None:
    async for pool in start(settings(workers=2)):
        first, second, new = await replacing(pool)
        second.die("killed by SIGKILL")
        await settle()
        assert pool.ready_info("m").revision == 1
        other = pool.launched[-1]
        other.greet()
        old, wanted = other.loads
        assert wanted == new
        other.load_done("m")
        assert pool.ready_info("m").revision == new.revision
        assert first.unloads == [old]


async def test_of_two_workers_one_cannot_load_it_and_both_answer_with_the_old_version() -> None:
    async for pool in start(settings(workers=2)):
        first, second, new = await replacing(pool)
        second.load_failed("m", "No memory.")
        assert pool.ready_info("m").revision == 1
        assert (first.unloads, second.unloads) == ([new], [new])
        first.unload_done()
        second.unload_done()
        assert [each.state for each in pool.registry.versions("m")] == ["ready", "failed"]
        assert all(pool.registry.holds(number, pool.ready_info("m").key) for number in (0, 1))


async def test_nothing_is_kept_of_versions_that_are_gone(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    for revision in (1, 2):
        pool.submit(entry(revision=revision))
        worker.answer(worker.sent[-1], fits=1)
        pool.load(NEW)
        worker.load_done("m")
        worker.unload_done()
    pool.load(NEW)
    worker.die()
    await settle()
    pool.load(NEW)
    supervisor, kept = pool.supervisor, {key for key, _ in pool.registry.wanted()}
    assert [lane.model for lane in pool._batcher._caps] == []
    assert {*supervisor._deadly, *supervisor._fatal} <= kept


@pytest.mark.slow
@pytest.mark.alone
async def test_under_load_every_request_is_answered_by_one_version_or_the_other() -> None:
    explainer = Explainer(load_settings(models=["m=shapes"], device="cpu"), Metrics(), launch=InProcessWorker)
    await explainer.start()
    await explainer.settled()
    versions: list[str] = []

    async def ask_until(stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await explainer.answer(Request([Upload(png(size=(96, 96)))], op="predict"))
            assert answer.images[0].error is None
            versions.append(answer.model.version)

    stop = asyncio.Event()
    clients = [asyncio.create_task(ask_until(stop)) for _ in range(4)]
    try:
        for number in range(3):
            await until(lambda: len(versions) >= 5, 60)
            explainer.pool.load(ModelConfig(name="m", architecture="shapes", version=f"v{number}"))
            await until(lambda number=number: versions[-1] == f"v{number}", 60)  # type: ignore[misc]
    finally:
        stop.set()
        await asyncio.gather(*clients)
        await until(lambda: len(explainer.pool.registry.versions("m")) == 1, 60)  # it may still be computing
        await explainer.stop()
    assert list(dict.fromkeys(versions))[1:] == ["v0", "v1", "v2"]
