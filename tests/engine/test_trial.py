"""What is loaded at run time is tried in a process of its own before; with workers that the tests speak for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from service.engine.messages import ModelLoaded, ModelProgress
from service.engine.trial import TRIAL
from service.settings import ModelConfig
from tests.engine.fakes import FakedPool, FakeLauncher, FakeWorker, entry, info, number_of, settings, settle
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.models.info import ModelKey

NEW = ModelConfig(name="m", architecture="toy", version="2", size=64)
OTHER = ModelConfig(name="other", architecture="toy")


class SeparateWorker(FakeWorker):
    """A worker that counts as a process of its own."""

    separate = True


@pytest.fixture
async def pool() -> AsyncIterator[FakedPool]:
    made = FakedPool(settings(workers=2, worker_start_timeout_s=5), FakeLauncher(SeparateWorker))
    await made.start()
    await settle()
    for worker in made.workers:
        worker.load_done("m")
    yield made
    await made.stop()


async def tried(pool: FakedPool) -> FakeWorker:
    """The process in which models are tried."""
    await settle()
    return next(worker for worker in reversed(pool.launched) if worker.spec.number == TRIAL)


def states(pool: FakedPool, name: str = "m") -> list[str]:
    return [version.state for version in pool.registry.versions(name)]


def reason(pool: FakedPool, key: ModelKey) -> str:
    found = pool.registry.version(key)
    assert found is not None
    return str(found.reason)


async def test_workers_load_what_could_be_loaded_and_dropped_before(pool: FakedPool) -> None:
    key = pool.load(NEW)
    trial = await tried(pool)
    assert trial.spec.start.expendable
    assert not pool.workers[0].spec.start.expendable
    assert trial.loads == [key]
    assert [len(worker.loads) for worker in pool.workers] == [1, 1]
    trial.load_done("m")
    assert trial.unloads == [key]
    assert [len(worker.loads) for worker in pool.workers] == [1, 1], "memory is given back before it is taken again"
    trial.unload_done()
    await settle()
    assert [worker.loads[-1] for worker in pool.workers] == [key, key]
    assert pool.ready_info("m").revision == 1
    for worker in pool.workers:
        worker.load_done("m")
    assert pool.ready_info("m").revision == key.revision
    assert trial.loads == [key]
    assert pool.registry.involved(key) == {0, 1}


async def test_a_model_that_kills_whoever_loads_it_harms_nobody_and_is_given_up(pool: FakedPool) -> None:
    waiting = entry(7)
    key = pool.load(NEW)
    trial = await tried(pool)
    trial.greet()
    pool.submit(waiting)
    trial.die("killed by SIGSEGV")
    await settle()
    assert states(pool) == ["ready", "failed"]
    assert reason(pool, key) == "Loading it ends the process: killed by SIGSEGV."
    assert pool.registry.settled(key)
    worker = next(worker for worker in pool.workers if worker.sent)
    worker.answer(worker.sent[0])
    assert number_of(waiting) == 7
    assert not any(slot.deaths for slot in pool.supervisor.slots)
    for number, worker in enumerate(list(pool.workers)):
        worker.die()
        await settle()
        assert key not in pool.workers[number].loads, "not by those that come later, either"
    assert len([worker for worker in pool.launched if worker.spec.number == TRIAL]) == 1


async def test_the_first_version_of_a_model_that_kills_is_never_loaded_by_a_worker(pool: FakedPool) -> None:
    key = pool.load(OTHER)
    (await tried(pool)).die("killed by SIGKILL")
    await settle()
    assert pool.status("other").state == "failed"
    assert "where memory runs out" in reason(pool, key)
    pool.workers[0].die()
    await settle()
    assert [loaded.name for loaded in pool.workers[0].loads] == ["m"]
    again = pool.load(OTHER)
    trial = await tried(pool)
    trial.load_done("other")
    trial.unload_done()
    await settle()
    assert all(again in worker.loads for worker in pool.workers), "who says so again gets another try"


async def test_a_worker_that_starts_meanwhile_does_not_load_what_is_being_tried(pool: FakedPool) -> None:
    key = pool.load(NEW)
    trial = await tried(pool)
    pool.workers[0].die()
    await settle()
    assert key not in pool.workers[0].loads
    trial.load_done("m")
    trial.unload_done()
    await settle()
    assert key in pool.workers[0].loads


async def test_one_that_cannot_be_loaded_fails_with_the_reason_that_was_given(pool: FakedPool) -> None:
    key = pool.load(NEW)
    (await tried(pool)).load_failed("m", "its file is damaged")
    await settle()
    assert (states(pool), reason(pool, key)) == (["ready", "failed"], "its file is damaged")


async def test_one_after_the_other_is_tried_in_the_same_process(pool: FakedPool) -> None:
    first, second = pool.load(NEW), pool.load(OTHER)
    trial = await tried(pool)
    assert trial.loads == [first]
    trial.load_failed("m", "its file is damaged")
    await settle()
    assert trial.loads == [first, second]
    trial.load_done("other")
    trial.unload_done()
    await settle()
    assert second in pool.workers[0].loads


async def test_what_is_not_wanted_any_more_is_not_waited_for(pool: FakedPool) -> None:
    pool.load(OTHER)
    trial = await tried(pool)
    pool.remove("other")
    await settle()
    assert states(pool, "other") == []
    assert trial.snapshot.ending is not None
    key = pool.load(NEW)
    assert (await tried(pool)).loads == [key]


async def test_one_that_is_not_loaded_in_time_is_given_up_and_its_process_ended() -> None:
    pool = FakedPool(settings(worker_start_timeout_s=0.1), FakeLauncher(SeparateWorker))
    await pool.start()
    await settle()
    pool.worker.load_done("m")
    key = pool.load(NEW)
    trial = await tried(pool)
    await until(lambda: pool.registry.settled(key))
    assert "not loaded within 0.1 s" in reason(pool, key)
    assert trial.snapshot.ending is not None
    await pool.stop()


async def test_a_machine_without_room_for_a_process_says_so(pool: FakedPool) -> None:
    pool.launcher.unstartable = 1
    key = pool.load(NEW)
    await settle()
    assert "No process can be started" in reason(pool, key)


async def test_the_process_ends_when_nothing_is_tried_for_a_while(
    pool: FakedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.trial._LINGER_S", 0.05)
    pool.load(NEW)
    first = await tried(pool)
    first.load_failed("m", "no")
    await until(lambda: first.stopped)
    pool.load(NEW)
    assert await tried(pool) is not first


async def test_what_comes_while_the_process_ends_is_tried_in_another(
    pool: FakedPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.trial._LINGER_S", 0.05)
    pool.load(NEW)
    first = await tried(pool)
    ends = asyncio.Event()

    async def stop(timeout_s: float) -> None:
        first.stopped = True
        await ends.wait()

    monkeypatch.setattr(first, "stop", stop)
    first.load_failed("m", "no")
    await until(lambda: first.stopped)
    key = pool.load(NEW)
    await settle()
    ends.set()
    second = await tried(pool)
    assert second is not first
    assert second.loads == [key]


async def test_progress_never_falls_and_says_what_is_done(pool: FakedPool) -> None:
    key = pool.load(NEW)
    trial = await tried(pool)
    told = []

    def note() -> None:
        found = pool.registry.version(key)
        assert found is not None
        told.append((found.progress, found.stage))

    note()
    trial.say(ModelProgress(key, 0.8, "warming"))
    note()
    trial.load_done("m")
    trial.unload_done()
    await settle()
    note()
    for worker in pool.workers:
        worker.say(ModelProgress(key, 0.6, "measuring layers"))
        note()
        worker.load_done("m")
        note()
    assert told == [
        (0.0, "waiting"),
        (0.4, "warming"),
        (0.5, "taking over"),
        (pytest.approx(0.65), "taking over"),
        (pytest.approx(0.75), "taking over"),
        (pytest.approx(0.9), "taking over"),
        (1.0, None),
    ]


# -- models that killed a worker: at the start, or when they were loaded again on demand ------------------------------


@pytest.fixture
async def suspicious() -> AsyncIterator[FakedPool]:
    """A worker that has died once, while it loaded ``deadly``, and was replaced."""
    made = FakedPool(settings(names=("deadly", "good")), FakeLauncher(SeparateWorker))
    await made.start()
    await settle()
    made.worker.greet()
    made.worker.die("killed by SIGSEGV")
    await settle()
    yield made
    await made.stop()


async def test_a_suspect_is_tried_while_the_others_are_loaded_and_given_up(suspicious: FakedPool) -> None:
    assert [key.name for key in suspicious.worker.loads] == ["good"]
    trial = await tried(suspicious)
    assert [key.name for key in trial.loads] == ["deadly"]
    suspicious.worker.load_done("good")
    trial.die("killed by SIGSEGV")
    await settle()
    assert suspicious.status("deadly").reason == "Loading it ends the process: killed by SIGSEGV."
    assert suspicious.status("good").state == "ready"
    assert len(suspicious.launched) == 3, "one worker died, not three"


@pytest.mark.parametrize("dies", [True, False])
async def test_nobody_waits_longer_for_a_suspect_than_until_it_was_tried(suspicious: FakedPool, dies: bool) -> None:
    trial = await tried(suspicious)
    (key,) = trial.loads
    suspicious.worker.load_done("good")
    assert not suspicious.registry.settled(key)
    if dies:
        trial.die("killed by SIGSEGV")
    else:
        trial.load_failed("deadly", "No memory.")
    await settle()
    assert suspicious.registry.settled(key)
    assert not suspicious.registry.is_loading("deadly"), "another version of it can be put"


async def test_a_suspect_that_can_be_loaded_is_loaded(suspicious: FakedPool) -> None:
    trial = await tried(suspicious)
    suspicious.worker.load_done("good")
    trial.load_done("deadly")
    trial.unload_done()
    await settle()
    suspicious.worker.load_done("deadly")
    assert suspicious.status("deadly").state == "ready"


async def test_what_was_loaded_when_a_worker_ended_that_computed_is_a_suspect_too() -> None:
    """A batch may have been the reason, until it could be loaded aside and not here."""
    pool = FakedPool(settings(names=("good", "deadly")), FakeLauncher(SeparateWorker))
    await pool.start()
    await settle()
    await dies_while_it_computes(pool)
    assert [key.name for key in pool.worker.loads] == ["good"]
    trial = await tried(pool)
    assert [key.name for key in trial.loads] == ["deadly"], "a process of its own tries it first"
    trial.load_done("deadly")
    trial.unload_done()
    await settle()
    assert pool.worker.loads[-1].name == "deadly"
    await dies_while_it_computes(pool)
    assert [key.name for key in pool.worker.loads] == ["good"]
    assert "Pictures were computed meanwhile" in str(pool.status("deadly").reason)
    await pool.stop()


async def test_what_has_answered_before_is_given_up_at_the_third_worker() -> None:
    pool = FakedPool(settings(names=("good", "deadly")), FakeLauncher(SeparateWorker))
    await pool.start()
    await settle()
    pool.worker.load_done("good", "deadly")
    pool.put_out(pool.worker.key("deadly"))
    pool.worker.unload_done()
    pool.wake("deadly")
    await settle()
    for number in range(3):
        assert pool.status("deadly").state == "loading"
        if number:
            trial = await tried(pool)
            trial.load_done("deadly")
            trial.unload_done()
            await settle()
        assert pool.worker.loads[-1].name == "deadly"
        await dies_while_it_computes(pool)
    assert pool.status("deadly").state == "failed"
    await pool.stop()


async def dies_while_it_computes(pool: FakedPool) -> None:
    pool.worker.load_done("good")
    pool.submit(entry(model="good"))
    pool.worker.die("killed by SIGSEGV")
    await settle()


async def test_where_nothing_can_be_loaded_a_suspect_is_tried_again_and_again(suspicious: FakedPool) -> None:
    for _ in range(4):
        (await tried(suspicious)).die()
        await asyncio.sleep(0.01)
        await settle()
    assert suspicious.status("deadly").state == "loading"
    suspicious.worker.load_done("good")
    (await tried(suspicious)).die()
    await settle()
    assert suspicious.status("deadly").state == "failed"


# -- what was loaded before -------------------------------------------------------------------------------------------


def loads_of(pool: FakedPool, name: str) -> list[int]:
    """How often each worker was told to load a model, and last the process in which they are tried."""
    count = [len([key for key in worker.loads if key.name == name]) for worker in pool.workers]
    aside = [key for worker in pool.launched if worker.spec.number == TRIAL for key in worker.loads]
    return [*count, len([key for key in aside if key.name == name])]


async def passes(pool: FakedPool) -> None:
    """Have the process find that the model can be loaded."""
    trial = await tried(pool)
    trial.load_done("other")
    trial.unload_done()
    await settle()


async def test_what_was_loaded_at_the_start_is_not_tried_when_it_is_reloaded_or_asked_for(pool: FakedPool) -> None:
    pool.load(ModelConfig(name="m", architecture="toy"))
    await settle()
    assert loads_of(pool, "m") == [2, 2, 0]
    for worker in pool.workers:
        worker.load_done("m")
    pool.put_out(pool.workers[0].key("m"))
    pool.wake("m")
    await settle()
    assert loads_of(pool, "m") == [3, 3, 0]
    key = pool.workers[0].key("m")
    for worker in pool.workers:
        worker.say(ModelProgress(key, 0.2, "reading weights"))
    found = pool.registry.version(key)
    assert found is not None
    assert (found.progress, found.stage) == (0.2, "reading weights"), "and not the second half of anything"


async def test_what_was_tried_is_not_tried_again_unless_a_file_of_it_has_changed(
    pool: FakedPool, tmp_path: Path
) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    config = OTHER.model_copy(update={"weights": str(weights)})
    pool.load(config)
    await until(lambda: loads_of(pool, "other") == [0, 0, 1])
    await passes(pool)
    pool.load(config)
    await until(lambda: loads_of(pool, "other") == [2, 2, 1])

    weights.write_bytes(b"12")
    pool.load(config)
    await until(lambda: loads_of(pool, "other") == [2, 2, 2])


async def test_what_is_put_out_is_tried_when_its_file_has_changed_meanwhile(pool: FakedPool, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"1")
    pool.load(OTHER.model_copy(update={"weights": str(weights)}))
    await until(lambda: loads_of(pool, "other") == [0, 0, 1])
    await passes(pool)
    for worker in pool.workers:
        worker.load_done("other")
    pool.put_out(pool.workers[0].key("other"))
    weights.write_bytes(b"12")
    pool.wake("other")
    await until(lambda: loads_of(pool, "other") == [1, 1, 2])


async def test_functions_are_tried_again_when_they_are_reloaded_but_not_when_they_are_asked_for(
    pool: FakedPool,
) -> None:
    key = pool.load(OTHER)
    trial = await tried(pool)
    await settle()
    for worker in (trial, *pool.workers):
        worker.greet()
        worker.say(ModelLoaded(key, replace(info("other"), source="python", revision=key.revision)))
        trial.unload_done()
        await settle()
    pool.put_out(key)
    pool.wake("other")
    await settle()
    assert loads_of(pool, "other") == [2, 2, 1]
    pool.load(OTHER)
    await settle()
    assert loads_of(pool, "other") == [2, 2, 2]


async def test_a_replacement_that_loads_aside_and_ends_a_worker_is_given_up_at_once(pool: FakedPool) -> None:
    key = pool.load(NEW)
    trial = await tried(pool)
    trial.load_done("m")
    trial.unload_done()
    await settle()
    for number in range(2):
        pool.workers[number].die("killed by SIGKILL")
        await settle()
        assert key not in pool.workers[number].loads
        pool.workers[number].load_done("m")
    assert states(pool) == ["ready", "failed"]
    assert reason(pool, key).startswith("Loading it ends the process: killed by SIGKILL.")


async def test_one_that_ends_a_worker_that_computes_is_given_up_at_once_too(pool: FakedPool) -> None:
    key = pool.load(NEW)
    trial = await tried(pool)
    trial.load_done("m")
    trial.unload_done()
    await settle()
    waiting = entry(7)
    pool.submit(waiting)
    number = next(number for number, worker in enumerate(pool.workers) if worker.sent)
    pool.workers[number].die("killed by SIGKILL")
    await settle()
    pool.workers[1 - number].die("killed by SIGKILL")
    await settle()
    for worker in list(pool.workers):
        assert key not in worker.loads
        worker.load_done("m")
        for run in worker.sent:
            worker.answer(run)
    assert number_of(waiting) == 7
    assert "Pictures were computed meanwhile" in reason(pool, key)
