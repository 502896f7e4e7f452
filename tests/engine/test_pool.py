"""The pool with fake workers: what is sent to whom, and what happens when one dies."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from service.engine.messages import Ran, RowAnswer
from service.errors import InternalError, NotReady, UnknownModel
from service.metrics import Ending
from tests.engine.fakes import entry, number_of, settings, settle, start

if TYPE_CHECKING:
    from tests.engine.fakes import FakedPool


async def test_a_lone_entry_leaves_at_once_and_a_burst_fills_the_next_batch(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    entries = [entry(number) for number in range(5)]
    for each in entries:
        pool.submit(each)
    assert [len(run.targets) for run in worker.sent] == [1]
    worker.answer(worker.sent[0])
    assert [len(run.targets) for run in worker.sent] == [1, 4]
    assert worker.sent[1].pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    worker.answer(worker.sent[1])
    assert [number_of(each) for each in entries] == [0, 1, 2, 3, 4]
    assert [each.future.result().batch_size for each in entries] == [1, 4, 4, 4, 4]


async def test_entries_wait_until_their_model_is_loaded(pool: FakedPool) -> None:
    worker = pool.worker
    waiting = entry()
    pool.submit(waiting)
    assert not worker.sent
    with pytest.raises(NotReady, match="being loaded"):
        pool.ready_info("m")
    worker.load_done("m")
    assert len(worker.sent) == 1
    assert pool.ready_info(None).name == "m"


async def test_one_batch_per_model_at_a_time_and_two_models_side_by_side() -> None:
    async for pool in start(settings(names=("a", "b", "c"), concurrency=2)):
        worker = pool.worker
        worker.load_done("a", "b", "c")
        for model in ("a", "a", "b", "c"):
            pool.submit(entry(model=model, revision=worker.key(model).revision))
        assert [run.lane.model.name for run in worker.sent] == ["a", "b"]
        worker.answer(worker.sent[1])
        # "a" has waited longest but still runs; "c" goes.
        assert [run.lane.model.name for run in worker.sent] == ["a", "b", "c"]


async def test_several_workers_share_the_work() -> None:
    async for pool in start(settings(workers=2)):
        first, second = pool.launched
        first.load_done("m")
        second.load_done("m")
        for number in range(2):
            pool.submit(entry(number))
        assert [len(first.sent), len(second.sent)] == [1, 1]


async def test_auto_starts_a_worker_on_every_device() -> None:
    async for pool in start(settings(device="auto", workers=2)):
        first, _second = pool.launched
        first.greet("cuda:0", "cuda:1", "cuda:2")
        await settle()
        devices = [worker.snapshot.device for worker in pool.launched]
        assert sorted(devices) == ["auto", "cuda:0", "cuda:1", "cuda:1", "cuda:2", "cuda:2"]
        assert len(pool.workers) == 6


async def test_a_dead_workers_entries_are_computed_once_more_and_each_alone(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    entries = [entry(number) for number in range(4)]
    for each in entries:
        pool.submit(each)
    worker.answer(worker.sent[0])
    worker.die()
    assert not entries[1].future.done()
    await settle()
    replacement = pool.launched[1]
    replacement.load_done("m")
    for _ in range(3):
        replacement.answer(replacement.sent[-1])
    assert [len(run.targets) for run in replacement.sent] == [1, 1, 1]
    assert [number_of(each) for each in entries] == [0, 1, 2, 3]


async def test_a_replacement_takes_the_number_of_the_worker_that_it_replaces() -> None:
    async for pool in start(settings(workers=3)):
        assert [slot.number for slot in pool.supervisor.slots] == [0, 1, 2]
        pool.launched[1].die()
        assert sorted(slot.number for slot in pool.supervisor.slots) == [0, 1, 2]
        await settle()
        assert pool.launched[-1].spec.number == 1


@pytest.mark.parametrize("ended", ["exited", "signal", "hung", "start_timeout", "not_started"])
async def test_restarts_and_retries_are_counted_by_how_the_worker_ended(pool: FakedPool, ended: Ending) -> None:
    worker = pool.worker
    worker.load_done("m")
    pool.submit(entry())
    worker.die(ending=ended)
    for name in ("camserve_worker_restarts_total", "camserve_retried_total"):
        counts = {each: pool._metrics.registry.get_sample_value(name, {"reason": each}) for each in get_args(Ending)}
        assert counts == dict.fromkeys(get_args(Ending), 0) | {ended: 1}


@pytest.mark.parametrize(("fits", "reason"), [(None, "error"), (2, "memory")])
async def test_splits_are_counted_by_what_made_them_necessary(pool: FakedPool, fits: int | None, reason: str) -> None:
    worker = pool.worker
    worker.load_done("m")
    pool.submit(entry())
    worker.say(Ran(worker.sent[0].batch, [InternalError("no")], 0.01, fits, splits=3))
    assert pool._metrics.registry.get_sample_value("camserve_batch_splits_total", {"reason": reason}) == 3


async def test_a_job_whose_second_worker_dies_fails_and_takes_nobody_with_it(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    poison, innocent = entry(0), entry(1)
    pool.submit(poison)
    pool.submit(innocent)
    worker.die()
    await settle()
    pool.launched[1].load_done("m")
    pool.launched[1].die()
    with pytest.raises(InternalError, match="Two workers died"):
        await poison.future
    await settle()
    await settle()
    last = pool.launched[2]
    last.load_done("m")
    last.answer(last.sent[0])
    assert number_of(innocent) == 1


async def test_abandoned_entries_are_neither_sent_nor_answered(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    running, queued, after = entry(0), entry(1), entry(2)
    for each in (running, queued, after):
        pool.submit(each)
    running.future.cancel()
    queued.future.cancel()
    worker.answer(worker.sent[0])
    assert worker.sent[1].pixels[:, 0, 0, 0].tolist() == [2]
    worker.answer(worker.sent[1])
    assert number_of(after) == 2


async def test_a_running_batch_is_given_up_when_the_last_of_its_clients_has_left(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    entries = [entry(number) for number in range(3)]
    for each in entries:
        pool.submit(each)  # the first is computed alone, the others after it
    worker.answer(worker.sent[0])
    for staying, leaving in enumerate(entries):
        leaving.future.cancel()
        pool.withdraw(leaving)
        assert worker.cancelled == ([worker.sent[1].batch] if staying == 2 else [])


async def test_who_gave_up_is_not_computed_again_when_the_worker_dies(pool: FakedPool) -> None:
    pool.worker.load_done("m")
    pool.submit(leaving := entry(0))
    leaving.future.cancel()
    pool.worker.die()
    await settle()
    assert pool._metrics.registry.get_sample_value("camserve_retried_total", {"reason": "exited"}) == 0
    pool.worker.load_done("m")
    assert pool.worker.sent == []


async def test_the_least_busy_worker_is_served_first() -> None:
    async for pool in start(settings(names=("a", "b"), workers=2, concurrency=2)):
        for worker in pool.launched:
            worker.load_done("a", "b")
        for model in ("a", "b"):
            pool.submit(entry(model=model, revision=pool.launched[0].key(model).revision))
        assert [[run.lane.model.name for run in worker.sent] for worker in pool.launched] == [["a"], ["b"]]


async def test_a_worker_computes_one_large_batch_at_a_time_beside_the_small_ones() -> None:
    async for pool in start(settings(names=("a", "b", "c"), concurrency=2)):
        worker = pool.worker
        worker.load_done("a", "b", "c")
        for model, large in (("a", True), ("b", True), ("a", False), ("b", False)):
            waiting = entry(model=model, revision=worker.key(model).revision)
            waiting.lane = replace(waiting.lane, large=large)
            pool.submit(waiting)
        assert [(run.lane.model.name, run.lane.large) for run in worker.sent] == [
            ("a", True),
            ("a", False),
            ("b", False),
        ]
        worker.answer(worker.sent[0])
        assert [(run.lane.model.name, run.lane.large) for run in worker.sent[3:]] == [("b", True)]


async def test_an_error_reaches_only_its_row(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    pool.submit(entry())
    good, bad = entry(1), entry(2)
    pool.submit(good)
    pool.submit(bad)
    worker.answer(worker.sent[0])
    row = RowAnswer(np.array([7], np.float32))
    worker.answer(worker.sent[1], [row, InternalError("no")])
    assert number_of(good) == 7
    with pytest.raises(InternalError, match="no"):
        await bad.future


async def test_what_fits_on_the_device_is_remembered(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    for number in range(9):
        pool.submit(entry(number))
    worker.answer(worker.sent[0], fits=3)
    assert [len(run.targets) for run in worker.sent] == [1, 3]


async def test_a_model_that_cannot_be_loaded_says_why(pool: FakedPool) -> None:
    worker = pool.worker
    worker.greet()
    worker.load_failed("m", "the file is missing")
    await pool.settled()
    status = pool.status("m")
    assert (status.state, status.reason) == ("failed", "the file is missing")
    with pytest.raises(NotReady, match="the file is missing"):
        pool.ready_info("m")
    with pytest.raises(UnknownModel, match="'mm'"):
        pool.ready_info("mm")


async def test_stopping_ends_workers_and_fails_what_runs(pool: FakedPool) -> None:
    worker = pool.worker
    worker.load_done("m")
    running, waiting = entry(), entry()
    pool.submit(running)
    pool.submit(waiting)
    await pool.stop()
    assert worker.stopped
    for each in (running, waiting):
        with pytest.raises(NotReady, match="shutting down"):
            await each.future
    with pytest.raises(NotReady, match="shutting down"):
        pool.ready_info("m")


async def test_whoever_waits_for_a_model_is_let_go_when_the_pool_stops(pool: FakedPool) -> None:
    waiting = asyncio.create_task(pool.settled())
    await settle()
    assert not waiting.done()
    await pool.stop()
    await asyncio.wait_for(waiting, 60)
