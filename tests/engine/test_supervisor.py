"""Which workers are started, when, and which are given up; with workers that the tests speak for."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from service.engine.messages import Failed, Hello, Loaded, Ping, Pong, Progress
from service.engine.supervisor import Supervisor
from service.errors import NotReady
from tests.engine.fakes import FakeWorker, info, job, number_of, settings, settle, start

if TYPE_CHECKING:
    from service.engine.pool import Pool


pytestmark = pytest.mark.usefixtures("fake_workers")


def worker_of(pool: Pool) -> FakeWorker:
    (worker,) = pool.workers
    assert isinstance(worker, FakeWorker)
    return worker


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """With what delays workers are started, from now on; none really is."""
    noted: list[float] = []

    async def launch(_self: Supervisor, _worker: FakeWorker, delay_s: float) -> None:
        noted.append(delay_s)

    monkeypatch.setattr(Supervisor, "_launch", launch)
    return noted


async def test_a_worker_that_keeps_dying_is_started_less_and_less_often(pool: Pool, delays: list[float]) -> None:
    for _ in range(12):
        worker_of(pool).die()
    await settle()
    assert delays[:4] == [0.1, 0.2, 0.4, 0.8]
    assert delays[-1] == 30.0


async def test_a_worker_that_was_of_use_is_replaced_at_once(pool: Pool, delays: list[float]) -> None:
    for _ in range(5):
        worker_of(pool).die()
    worker_of(pool).useful = True
    worker_of(pool).die()
    await settle()
    assert delays[-2:] == [1.6, 0.1]


async def test_readiness_says_that_workers_keep_dying_until_one_lives(pool: Pool, delays: list[float]) -> None:
    for _ in range(2):
        worker_of(pool).die()
    assert pool.status("m").state == "loading"
    worker_of(pool).die("killed by SIGSEGV")
    status = pool.status("m")
    assert status.state == "failed"
    assert "killed by SIGSEGV" in str(status.reason)
    with pytest.raises(NotReady, match="keeps dying"):
        pool.ready_info("m")
    worker_of(pool).load("m")
    assert pool.status("m").state == "ready"


async def test_a_machine_without_room_for_a_process_is_asked_again(pool: Pool) -> None:
    FakeWorker.unstartable = 1
    worker_of(pool).die()
    await settle()
    assert "temporarily unavailable" in str(worker_of(pool).last_exit)
    count = pool._metrics.registry.get_sample_value
    assert count("camserve_worker_restarts_total", {"reason": "not_started"}) == 1
    await settle()
    await settle()
    worker_of(pool).load("m")
    assert pool.status("m").state == "ready"


@pytest.mark.parametrize(("cores", "workers", "asked", "threads"), [(6, 2, 0, 3), (1, 4, 0, 1), (6, 2, 5, 5)])
async def test_workers_share_the_cores_that_the_container_may_use(
    monkeypatch: pytest.MonkeyPatch, cores: int, workers: int, asked: int, threads: int
) -> None:
    monkeypatch.setattr("service.engine.supervisor.available_cores", lambda: cores)
    async for pool in start(settings(workers=workers, threads=asked)):
        assert [worker.start.threads for worker in pool.workers] == [threads] * workers


# -- models that kill -------------------------------------------------------------------------------------------------


async def test_a_model_that_kills_whoever_loads_it_is_left_out_and_the_others_answer() -> None:
    async for pool in start(settings(names=("deadly", "good"))):
        for _ in range(4):
            load_until(worker_of(pool), "deadly")
            worker_of(pool).die("killed by SIGKILL")
        assert [config.name for config in worker_of(pool).start.models] == ["good"]
        worker_of(pool).load("good")
        assert pool.status("good").state == "ready"
        assert pool.status("deadly").state == "failed"
        assert worker_of(pool).missing() == []


def load_until(worker: FakeWorker, deadly: str) -> None:
    """Load models in the order that the worker was told, up to the one that kills."""
    worker.say(Hello("cpu", ("cpu",)))
    for name in itertools.takewhile(lambda name: name != deadly, worker.missing()):
        worker.say(Loaded(info(name)))


async def test_where_nothing_can_be_loaded_no_model_is_blamed() -> None:
    async for pool in start(settings(names=("a", "b"))):
        for _ in range(9):
            worker_of(pool).say(Hello("cpu", ("cpu",)))
            worker_of(pool).die()
        assert sorted(worker_of(pool).missing()) == ["a", "b"]


async def test_a_model_is_not_blamed_for_what_a_batch_may_have_done_nor_after_it_loaded_once() -> None:
    async for pool in start(settings(names=("good", "slow"))):
        for times in range(8):
            worker_of(pool).load("good")
            if times == 2:
                worker_of(pool).load("slow")
            elif times > 3:
                pool.submit(job(model="good"))
            worker_of(pool).die()
        assert [config.name for config in worker_of(pool).start.models] == ["good", "slow"]


async def test_the_only_model_is_tried_again_and_again(pool: Pool) -> None:
    for _ in range(5):
        worker_of(pool).say(Hello("cpu", ("cpu",)))
        worker_of(pool).die()
    assert [config.name for config in worker_of(pool).start.models] == ["m"]


# -- the watchdog -----------------------------------------------------------------------------------------------------

PATIENCE = 3


async def test_a_worker_without_a_sign_of_life_is_noticed(pool: Pool) -> None:
    worker = worker_of(pool)
    assert [worker.tick(PATIENCE) for _ in range(9)] == [None] * 9, "nobody listens before the hello"
    worker.load("m")
    for _ in range(5):
        assert [worker.tick(PATIENCE) for _ in range(3)] == [None] * 3
        worker.say(Pong({}))
    assert [worker.tick(PATIENCE) for _ in range(4)] == [None] * 3 + ["no sign of life"]
    assert all(isinstance(message, Ping) for message in worker.written)


async def test_a_sign_of_life_tells_of_the_devices_memory(pool: Pool) -> None:
    worker_of(pool).say(Pong({"allocated": 5, "reserved": 7}))
    assert worker_of(pool).device_bytes == {"allocated": 5, "reserved": 7}


async def test_a_batch_that_does_not_end_is_noticed_though_the_worker_is_alive(pool: Pool) -> None:
    worker = worker_of(pool)
    worker.load("m")
    pool.submit(job())
    noticed = []
    for _ in range(4):
        worker.say(Pong({}))
        noticed.append(worker.tick(PATIENCE))
    assert noticed == [None] * 3 + ["no end of a batch"]


async def test_a_slow_batch_that_tells_of_its_progress_is_let_be(pool: Pool) -> None:
    worker = worker_of(pool)
    worker.load("m")
    pool.submit(job())
    for step in range(20):
        if not step % PATIENCE:
            worker.say(Progress(worker.sent[0].batch, step / 20))
        assert worker.tick(PATIENCE) is None


async def test_a_hung_worker_is_killed_and_its_jobs_are_answered_by_another() -> None:
    async for pool in start(settings(worker_silence_timeout_s=0.3)):
        worker = worker_of(pool)
        worker.load("m")
        waiting = job(7)
        pool.submit(waiting)
        for _ in range(5):
            await settle()
        assert worker not in pool.workers
        assert worker_of(pool).last_exit == "killed: hung"
        worker_of(pool).load("m")
        worker_of(pool).answer(worker_of(pool).sent[0])
        assert number_of(waiting) == 7


async def test_a_worker_that_loads_nothing_in_time_is_replaced() -> None:
    async for pool in start(settings(worker_start_timeout_s=0.05)):
        await settle()
        assert worker_of(pool).last_exit == "killed: start_timeout"


async def test_a_model_that_does_not_load_in_time_fails_and_the_others_answer() -> None:
    async for pool in start(settings(names=("good", "stuck"), worker_start_timeout_s=0.3)):
        worker = worker_of(pool)
        worker.load("good")
        await settle()
        await settle()
        assert pool.status("good").state == "ready"
        assert "not loaded within 0.3 s" in str(pool.status("stuck").reason)
        worker.load("stuck")
        assert pool.status("stuck").state == "ready", "late is better than never"


async def test_a_model_that_cannot_be_loaded_is_not_waited_for(pool: Pool) -> None:
    worker = worker_of(pool)
    states: list[str] = [worker.state]
    for message in (Hello("cpu", ("cpu",)), Failed("m", "no such file"), Loaded(info("m"))):
        worker.say(message)
        states.append(worker.state)
    assert states == ["waiting", "loading", "failed", "ready"]
