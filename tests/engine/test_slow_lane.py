"""Answers that take long beside answers that do not, with a real worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from service.engine.answers import Upload
from service.engine.explainer import Explainer
from service.errors import DeadlineExceeded
from service.metrics import Metrics
from service.settings import load_settings
from service.wire import ExplainOptions
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUICK = ExplainOptions(output=["map"])
# 64 noisy copies of 2 views, for several layers: seconds on any machine.
SLOW = ExplainOptions(output=["map"], method=["scorecam"], layer=["layer4", "layer3", "layer2"], smooth=8)
PICTURE = Upload(png(size=(96, 96)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    explainer = Explainer(load_settings(), Metrics())
    await explainer.start()
    await explainer.pool.settled()
    yield explainer
    await explainer.stop()


async def until_running(engine: Explainer) -> None:
    (worker,) = engine.pool.workers
    while not any(jobs[0].lane.slow for jobs in worker.running.values()):  # noqa: ASYNC110  # no event for that moment
        await asyncio.sleep(0.001)


async def test_quick_requests_do_not_wait_for_the_end_of_a_slow_one(engine: Explainer) -> None:
    expected = await engine.answer([PICTURE], QUICK)
    slow = asyncio.ensure_future(engine.answer([PICTURE], SLOW, timeout_s=600))
    await until_running(engine)
    for _ in range(5):
        answer = await engine.answer([PICTURE], QUICK)
        assert not slow.done()
        np.testing.assert_allclose(raw(answer), raw(expected), rtol=1e-4)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_slow_answer_is_the_same_whoever_comes_between(engine: Explainer) -> None:
    options = ExplainOptions(output=["map"], method=["scorecam", "ablationcam"])
    alone = await engine.answer([PICTURE], options, timeout_s=600)
    slow = asyncio.ensure_future(engine.answer([PICTURE], options, timeout_s=600))
    while not slow.done():
        await engine.answer([PICTURE], QUICK)
    for one, other in zip(slow.result().pictures[0].explanations, alone.pictures[0].explanations, strict=True):
        np.testing.assert_allclose(one.raw, other.raw, rtol=1e-3, atol=1e-6)


async def test_a_deadline_ends_the_computation_too(engine: Explainer) -> None:
    (worker,) = engine.pool.workers
    slower = SLOW.model_copy(update={"smooth": 64})  # it tells of its progress many times before it is done
    with pytest.raises(DeadlineExceeded):
        await engine.answer([PICTURE], slower, timeout_s=0.3)
    while worker.running:
        assert max(worker.progress.values(), default=0.0) < 0.5, "the worker went on although nobody waits"
        await asyncio.sleep(0.01)
    assert engine.pool.workers == [worker]


async def test_slow_pictures_go_one_at_a_time(engine: Explainer) -> None:
    options = ExplainOptions(output=["map"], method=["smoothgradcam++"])
    answer = await engine.answer([PICTURE] * 3, options, timeout_s=600)
    assert [picture.times.batch_size for picture in answer.pictures] == [1, 1, 1]


def raw(answer: Any) -> Any:
    return answer.pictures[0].explanations[0].raw
