"""Faults in real worker processes: everybody else is answered, rightly, and the faulty picture gets its error."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.errors import InternalError, ModelOutputError, NotReady
from service.metrics import Metrics
from service.settings import load_settings
from tests.faults import MODEL, Fault, picture
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.engine.answers import Answer, ImageAnswer

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow, pytest.mark.alone]

DEADLINE_S = 300.0
MAPS = Request(outputs=("map",), targets=("top-2",), timeout_s=DEADLINE_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[Explainer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMSERVE_TESTS_FAULTS", str(folder))
        settings = load_settings(
            models=[f"m={MODEL}"], device="cpu", threads=1, max_images=32, max_batch_size=32, worker_silence_timeout_s=5
        )
        explainer = Explainer(settings, Metrics())
        await explainer.start()
        await explainer.settled()
        yield explainer
        await explainer.stop()


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _recovered(engine: Explainer) -> AsyncIterator[None]:
    """After every test, whatever it did, the next picture is answered."""
    yield
    await engine.pool.settled()
    assert (await ask(engine, 1)).images[0].error is None


async def ask(engine: Explainer, *seeds: int, bad: bytes | None = None) -> Answer:
    uploads = [Upload(picture(seed)) for seed in seeds]
    if bad is not None:
        uploads.insert(len(uploads) // 2, Upload(bad))
    return await engine.answer(replace(MAPS, images=uploads))


def maps(answered: ImageAnswer) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    return [explanation.raw for explanation in answered.explanations]


async def assert_right(engine: Explainer, answer: Answer, *seeds: int) -> None:
    """The pictures' answers are those that each gets alone while nothing else happens."""
    answered = [each for each in answer.images if each.error is None]
    assert len(answered) == len(seeds)
    for each, seed in zip(answered, seeds, strict=True):
        alone = (await ask(engine, seed)).images[0]
        np.testing.assert_allclose(maps(each), maps(alone), rtol=1e-4, atol=1e-4)


SEEDS = range(10, 41)


@pytest.mark.parametrize("fault", [Fault.RAISE, Fault.NAN, Fault.SYSTEM_EXIT])
async def test_one_poisoned_picture_of_32_fails_alone(engine: Explainer, fault: Fault) -> None:
    pid = engine.workers()[0].pid
    answer = await ask(engine, *SEEDS, bad=picture(5, fault))
    assert engine.workers()[0].pid == pid, "the worker lives"
    (failed,) = [each for each in answer.images if each.error is not None]
    assert isinstance(failed.error, ModelOutputError if fault == Fault.NAN else InternalError)
    await assert_right(engine, answer, *SEEDS)


@pytest.mark.parametrize("fault", [Fault.EXIT, Fault.SEGFAULT, Fault.DEVICE_ASSERT, Fault.HANG])
async def test_a_worker_lost_once_costs_nobody_the_answer(engine: Explainer, fault: Fault) -> None:
    answer = await ask(engine, *SEEDS, bad=picture(100 + fault, fault, times=1))
    assert [each.error for each in answer.images] == [None] * 32


async def test_a_picture_that_kills_every_worker_is_tried_twice_and_takes_nobody_with_it(
    engine: Explainer, folder: Path
) -> None:
    before = happened(folder)
    answer = await ask(engine, *SEEDS, bad=picture(200, Fault.EXIT, times=9))
    (failed,) = [each for each in answer.images if each.error is not None]
    assert isinstance(failed.error, InternalError)
    assert "Two workers died" in failed.error.message
    assert happened(folder) - before == 2
    await assert_right(engine, answer, *SEEDS)


def happened(folder: Path) -> int:
    return len(list(folder.iterdir()))


async def test_a_stopped_process_is_noticed_and_replaced(engine: Explainer) -> None:
    (worker,) = engine.workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)
    answer = await ask(engine, *SEEDS)
    await assert_right(engine, answer, *SEEDS)
    assert engine.workers()[0].pid != worker.pid
    assert engine.workers()[0].last_exit == "it hung"
    assert engine.pool._metrics.registry.get_sample_value("camserve_worker_restarts_total", {"reason": "hung"})


async def test_a_batch_too_big_for_the_device_is_answered_in_parts(engine: Explainer, folder: Path) -> None:
    (folder / "memory").write_text("3")
    try:
        answer = await ask(engine, *SEEDS)
        again = await ask(engine, *SEEDS)
    finally:
        (folder / "memory").unlink()
    assert max(each.times.batch_size for each in again.images) <= 4
    await assert_right(engine, answer, *SEEDS)


async def test_a_worker_that_cannot_start_is_said_to_keep_dying_and_comes_back(engine: Explainer, folder: Path) -> None:
    (folder / "load").touch()
    try:
        pid = engine.workers()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engine.pool.status().state == "failed", DEADLINE_S)
        with pytest.raises(NotReady, match="keeps dying; last time: exited with code 9"):
            await ask(engine, 1)
    finally:
        (folder / "load").unlink()
    await until(lambda: engine.pool.status().state == "ready", DEADLINE_S)


async def test_a_device_that_is_not_there_is_said_in_words() -> None:
    explainer = Explainer(load_settings(models=[f"m={MODEL}"], device="cuda:77"), Metrics())
    await explainer.start()
    try:
        await explainer.settled()
        assert "'cuda:77' cannot be used; this machine has" in str(explainer.pool.status().reason)
    finally:
        await explainer.stop()
