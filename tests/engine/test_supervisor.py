"""Which workers are started, when, and which are given up; with workers that the tests speak for."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from typing import TYPE_CHECKING

import pytest

from service.errors import NotReady
from service.models.sources.source import Downloads
from tests.engine.fakes import FakedPool, FakeWorker, entry, number_of, settings, settle, start

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_worker_that_keeps_dying_is_started_less_and_less_often(pool: FakedPool) -> None:
    for _ in range(12):
        pool.worker.die()
        await settle()
    assert pool.delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pool.delays[-1] == 30.0


async def test_a_worker_that_was_of_use_is_replaced_at_once(pool: FakedPool) -> None:
    for _ in range(5):
        pool.worker.die()
        await settle()
    pool.worker.load_done("m")
    pool.submit(entry())
    pool.worker.answer(pool.worker.sent[0])
    pool.worker.die()
    assert pool.delays[-2:] == [1.6, 0.1]


async def test_readiness_says_that_workers_keep_dying_until_one_lives(pool: FakedPool) -> None:
    for _ in range(2):
        pool.worker.die()
        await settle()
    assert pool.status("m").state == "loading"
    pool.worker.die("killed by SIGSEGV")
    status = pool.status("m")
    assert status.state == "failed"
    assert "killed by SIGSEGV" in str(status.reason)
    with pytest.raises(NotReady, match="keeps dying"):
        pool.ready_info("m")
    await settle()
    pool.worker.load_done("m")
    assert pool.status("m").state == "ready"


async def test_a_machine_without_room_for_a_process_is_asked_again(pool: FakedPool) -> None:
    pool.launcher.unstartable = 1
    pool.worker.die()
    await settle()
    await settle()
    assert "temporarily unavailable" in str(pool.worker_statuses()[0].last_exit)
    count = pool._metrics.registry.get_sample_value
    assert count("camserve_worker_restarts_total", {"reason": "not_started"}) == 1
    await settle()
    await settle()
    pool.worker.load_done("m")
    assert pool.status("m").state == "ready"


@pytest.mark.parametrize(("cores", "workers", "asked", "threads"), [(6, 2, 0, 3), (1, 4, 0, 1), (6, 2, 5, 5)])
async def test_workers_share_the_cores_that_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, asked: int, threads: int
) -> None:
    monkeypatch.setattr("service.engine.cores.available_cores", lambda: cores)
    async for pool in start(settings(workers=workers, threads=asked)):
        assert [worker.spec.start.threads for worker in pool.workers] == [threads] * workers


async def test_a_worker_is_told_what_the_settings_say(tmp_path: Path) -> None:
    chosen = {"concurrency": 3, "log_level": "error", "log_format": "json", "device": "cuda:1"}
    downloads = {"cache_dir": tmp_path, "allow_download": False, "weights_mirror": "https://mirror.test"}
    async for pool in start(settings(**chosen, **downloads)):
        told = pool.worker.spec.start
        assert {name: getattr(told, name) for name in chosen} == chosen
        assert told.downloads == Downloads(tmp_path, allowed=False, mirror="https://mirror.test")


# -- models that kill -------------------------------------------------------------------------------------------------


async def test_a_model_that_kills_whoever_loads_it_is_left_out_and_the_others_answer() -> None:
    async for pool in start(settings(names=("deadly", "good"))):
        for _ in range(4):
            load_until(pool.worker, "deadly")
            pool.worker.die("killed by SIGKILL")
            await settle()
        assert [key.name for key in pool.worker.loads] == ["good"]
        pool.worker.load_done("good")
        assert pool.status("good").state == "ready"
        assert pool.status("deadly").state == "failed"
        assert pool.worker_statuses()[0].state == "ready"


def load_until(worker: FakeWorker, deadly: str) -> None:
    """Load models in the order that the worker was told, up to the one that kills."""
    worker.greet()
    for key in itertools.takewhile(lambda key: key.name != deadly, worker.loads):
        worker.load_done(key.name)


async def test_where_nothing_can_be_loaded_no_model_is_blamed() -> None:
    async for pool in start(settings(names=("a", "b"))):
        for _ in range(9):
            pool.worker.greet()
            pool.worker.die()
            await settle()
        assert sorted(key.name for key in pool.worker.loads) == ["a", "b"]


async def test_a_model_is_not_blamed_for_what_a_batch_may_have_done_nor_after_it_loaded_once() -> None:
    async for pool in start(settings(names=("good", "slow"))):
        for times in range(8):
            pool.worker.load_done("good")
            if times == 2:
                pool.worker.load_done("slow")
            elif times > 3:
                pool.submit(entry(model="good"))
            pool.worker.die()
            await settle()
        assert [key.name for key in pool.worker.loads] == ["good", "slow"]


async def test_the_only_model_is_tried_again_and_again(pool: FakedPool) -> None:
    for _ in range(5):
        pool.worker.greet()
        pool.worker.die()
        await settle()
    assert [key.name for key in pool.worker.loads] == ["m"]


# -- workers that take too long ---------------------------------------------------------------------------------------


async def test_a_worker_that_ended_as_hung_is_replaced_and_its_entries_are_answered_by_another(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    waiting = entry(7)
    pool.submit(waiting)
    worker.kill("hung")
    await settle()
    assert pool.worker is not worker
    assert pool.worker_statuses()[0].last_exit == "killed: hung"
    pool.worker.load_done("m")
    pool.worker.answer(pool.worker.sent[0])
    assert number_of(waiting) == 7


async def test_a_worker_that_loads_nothing_in_time_is_replaced() -> None:
    async for pool in start(settings(worker_start_timeout_s=0.05)):
        pool.worker.greet()
        await asyncio.sleep(0.1)
        assert pool.worker_statuses()[0].last_exit == "killed: start_timeout"


async def test_a_model_that_does_not_load_in_time_fails_and_the_others_answer() -> None:
    async for pool in start(settings(names=("good", "stuck"), worker_start_timeout_s=0.3)):
        worker = pool.worker
        worker.load_done("good")
        await asyncio.sleep(0.5)
        assert pool.status("good").state == "ready"
        assert "not loaded within 0.3 s" in str(pool.status("stuck").reason)
        worker.load_done("stuck")
        assert pool.status("stuck").state == "ready", "late is better than never"


async def test_a_model_that_cannot_be_loaded_is_not_waited_for() -> None:
    pool = FakedPool(settings())
    await pool.start()
    states = [pool.worker_statuses()[0].state]
    await settle()
    worker = pool.worker
    for step in (worker.greet, partial(worker.load_failed, "m", "no such file"), partial(worker.load_done, "m")):
        states.append(pool.worker_statuses()[0].state)
        step()
    states.append(pool.worker_statuses()[0].state)
    assert states == ["waiting", "loading", "loading", "failed", "ready"]
    await pool.stop()
