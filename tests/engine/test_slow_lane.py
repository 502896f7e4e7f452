"""Answers that take long beside answers that do not, with a real worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.errors import DeadlineExceeded
from service.metrics import Metrics
from service.settings import load_settings
from tests.toys import png
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = Upload(png(size=(96, 96)))
QUICK = Request([PICTURE], outputs=("map",))
# 64 noisy copies of 2 views, for several layers: seconds on any machine.
SLOW = replace(QUICK, methods=("scorecam",), layers=("layer4", "layer3", "layer2"), smooth=8, timeout_s=600)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    explainer = Explainer(load_settings(), Metrics())
    await explainer.start()
    await explainer.settled()
    yield explainer
    await explainer.stop()


async def until_running(engine: Explainer) -> None:
    while not any(batch.lane.large for batch in engine.pool._running.values()):  # noqa: ASYNC110  # no event for that
        await asyncio.sleep(0.001)


async def test_quick_requests_do_not_wait_for_the_end_of_a_slow_one(engine: Explainer) -> None:
    expected = await engine.answer(QUICK)
    slow = asyncio.ensure_future(engine.answer(SLOW))
    await until_running(engine)
    for _ in range(5):
        answer = await engine.answer(QUICK)
        assert not slow.done()
        np.testing.assert_allclose(raw(answer), raw(expected), rtol=1e-4)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_a_slow_answer_is_the_same_whoever_comes_between(engine: Explainer) -> None:
    request = replace(QUICK, methods=("scorecam", "ablationcam"), timeout_s=600)
    alone = await engine.answer(request)
    slow = asyncio.ensure_future(engine.answer(request))
    while not slow.done():
        await engine.answer(QUICK)
    for one, other in zip(slow.result().images[0].explanations, alone.images[0].explanations, strict=True):
        np.testing.assert_allclose(one.raw, other.raw, rtol=1e-3, atol=1e-6)


# Of which one alone takes minutes on any machine.
ENDLESS = replace(SLOW, methods=("scorecam", "ablationcam"), targets=("top-8",), smooth=12)


async def test_a_deadline_ends_the_computation_too(engine: Explainer) -> None:
    (worker,) = engine.workers()
    with pytest.raises(DeadlineExceeded):
        await engine.answer(replace(ENDLESS, timeout_s=0.3))
    await until(lambda: not engine.workers()[0].batches, 60)
    assert engine.workers()[0].pid == worker.pid


async def test_a_slow_answer_tells_how_far_it_is(engine: Explainer) -> None:
    slow = asyncio.ensure_future(engine.answer(replace(ENDLESS, timeout_s=600)))
    await until(lambda: engine.workers()[0].progress, 60)
    (share,) = engine.workers()[0].progress.values()
    assert 0 <= share < 1
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await until(lambda: not engine.workers()[0].batches, 60)


async def test_slow_pictures_go_one_at_a_time(engine: Explainer) -> None:
    request = replace(QUICK, images=[PICTURE] * 3, methods=("smoothgradcam++",), timeout_s=600)
    answer = await engine.answer(request)
    assert [picture.times.batch_size for picture in answer.images] == [1, 1, 1]


def raw(answer: Any) -> Any:
    return answer.images[0].explanations[0].raw
