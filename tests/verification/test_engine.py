"""`verify` all the way through the engine, with a real worker: beside others, given up, counted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from service.engine.cost import Work
from service.engine.explainer import Explainer
from service.engine.plan import plan
from service.engine.request import Request, Upload
from service.imaging.decode import Header
from service.metrics import Metrics
from service.settings import load_settings
from tests.toys import png
from tests.web.application import PETS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.engine.answers import Answer
    from service.verification.verdict import Verification

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = Upload(png(size=(120, 96)))
VERIFIED = Request([PICTURE], outputs=("map",), verify=True)
# Dozens of maps, each with its proof: seconds on any machine.
ENDLESS = replace(VERIFIED, layers=("layer2", "layer3", "layer4"), targets=("top-12",), methods=("layercam",))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    settings = load_settings()
    explainer = Explainer(settings, Metrics())
    await explainer.start()
    await explainer.settled()
    yield explainer
    await explainer.stop()


def proofs(answer: Answer) -> list[Verification]:
    found = [each.proof for picture in answer.images for each in picture.explanations]
    assert all(each is not None for each in found)
    return [each for each in found if each is not None]


def told(found: Verification) -> tuple[Any, ...]:
    """What must be the same, however it was computed."""
    return found.verdict, found.p, found.gates, found.passes


async def test_a_picture_alone_is_the_same_as_among_others(engine: Explainer) -> None:
    others = [Upload(png(size=(96, 96), seed=seed)) for seed in (1, 2)]
    (alone,) = proofs(await engine.answer(VERIFIED))
    together = proofs(await engine.answer(replace(VERIFIED, images=[others[0], PICTURE, others[1]])))
    assert told(together[1]) == told(alone)
    assert together[1].drop == pytest.approx(alone.drop, rel=1e-3, abs=1e-3)


async def test_small_requests_go_between_its_steps(engine: Explainer) -> None:
    quick = Request([PICTURE], outputs=("map",))
    expected = await engine.answer(quick)
    slow = asyncio.ensure_future(engine.answer(replace(ENDLESS, timeout_s=600)))
    await until(lambda: any(batch.lane.large for batch in engine.pool._running.values()), 60)
    answer = await engine.answer(quick)
    assert not slow.done()
    np.testing.assert_allclose(
        answer.images[0].explanations[0].raw, expected.images[0].explanations[0].raw, rtol=1e-4, atol=1e-7
    )
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await until(lambda: not engine.workers()[0].batches, 60)


async def test_who_gives_up_frees_the_worker(engine: Explainer) -> None:
    (worker,) = engine.workers()
    slow = asyncio.ensure_future(engine.answer(replace(ENDLESS, timeout_s=600)))
    await until(lambda: engine.workers()[0].progress, 60)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    await until(lambda: not engine.workers()[0].batches, 60)
    assert engine.workers()[0].pid == worker.pid
    assert proofs(await engine.answer(VERIFIED))


async def test_verdicts_are_counted(engine: Explainer) -> None:
    def counted(verdict: str) -> float:
        return engine._metrics.registry.get_sample_value("camserve_verifications_total", {"verdict": verdict}) or 0.0

    before = {verdict: counted(verdict) for verdict in ("supported", "not_supported", "undecided")}
    (found,) = proofs(await engine.answer(VERIFIED))
    changed = {verdict: counted(verdict) - number for verdict, number in before.items()}
    assert changed == {**dict.fromkeys(before, 0), found.verdict: 1}


async def test_without_it_there_is_no_proof(engine: Explainer) -> None:
    answer = await engine.answer(replace(VERIFIED, verify=False))
    assert [each.proof for each in answer.images[0].explanations] == [None]
    assert answer.cost.forward < 2


async def test_its_mirror_image_is_not_put_to_the_proof(engine: Explainer) -> None:
    """Of which ``scores`` asks whether the map is stable."""
    answer = await engine.answer(replace(VERIFIED, outputs=("scores",)))
    assert len(proofs(answer)) == 1
    assert answer.images[0].explanations[0].scores is not None
    once = await engine.answer(VERIFIED)
    assert answer.cost.forward - once.cost.forward < 2


async def test_both_registrations(engine: Explainer) -> None:
    """What is hidden is where the map is drawn."""
    found = [proofs(await engine.answer(replace(VERIFIED, registration=how)))[0] for how in ("measured", "stretch")]
    assert all(each.drop is not None for each in found)


def work(**asked: Any) -> Work:
    return Work.of(plan(Request(**asked), PETS, 100), [Header(8, 8, 64)])


async def test_the_estimate_counts_it() -> None:
    plain, proved = work().cost, work(verify=True).cost
    assert 20 <= proved.forward - plain.forward <= 26
    several = work(verify=True, targets=("top-2",), layers=("conv1", "conv2")).cost
    assert 80 <= several.forward <= 100
    assert work(verify=True, methods=("eigencam",)).cost.forward < proved.forward
    assert proved.bytes > plain.bytes
    for asked in ({"methods": ("scorecam",)}, {"methods": ("smoothgradcam++",)}, {"smooth": 4}):
        alone, both = work(**asked).cost.forward, work(verify=True, **asked).cost.forward
        assert 21 <= both - alone <= 40, "and backward passes for the other class and the random head"


async def test_it_makes_a_picture_large_and_its_mirror_image_not() -> None:
    todo = plan(Request(verify=True, outputs=("scores",)), PETS, 100)
    assert (todo.lane.large, todo.lane.verify) == (True, True)
    assert (todo.of_mirror_image.lane.large, todo.of_mirror_image.lane.verify) == (False, False)
    assert todo.of_mirror_image.amount < 2 < todo.amount


async def test_hidden_costs_what_an_overlay_does() -> None:
    assert work(outputs=("hidden",)).cost == work(outputs=("overlay",)).cost
