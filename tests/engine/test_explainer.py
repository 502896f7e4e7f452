"""The whole engine with a real worker and the embedded models: a process, or in this one where no test is of that."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pytest_asyncio

from service.engine import picture_threads, pipeline
from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.engine.worker_process import WorkerProcess
from service.engine.workers.in_process import InProcessWorker
from service.errors import DeadlineExceeded, InvalidImage, NoImage, NotReady, Overloaded, TooManyImages
from service.metrics import Metrics
from service.settings import ModelConfig, load_settings
from tests.toys import png
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from service.engine.worker import Launcher

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAPS = Request(outputs=("map",), targets=("top-2",))


async def started(launch: Launcher = WorkerProcess, **changes: Any) -> Explainer:
    explainer = Explainer(load_settings(max_queue=64, **changes), Metrics(), launch=launch)
    await explainer.start()
    await explainer.settled()
    return explainer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    explainer = await started()
    yield explainer
    await explainer.stop()


def scenes(n: int) -> list[Upload]:
    return [Upload(png(seed=seed, size=(120, 90)), f"{seed}.png") for seed in range(n)]


async def ask(engine: Explainer, upload: Upload) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    answer = await engine.answer(replace(MAPS, images=[upload]))
    return [explanation.raw for explanation in answer.images[0].explanations]


async def test_together_equals_alone_in_fewer_batches(engine: Explainer) -> None:
    uploads = scenes(20)
    alone = [await ask(engine, upload) for upload in uploads]
    answer = await engine.answer(replace(MAPS, images=uploads))
    assert max(picture.times.batch_size for picture in answer.images) > 1
    for picture, expected in zip(answer.images, alone, strict=True):
        for explanation, raw in zip(picture.explanations, expected, strict=True):
            np.testing.assert_allclose(explanation.raw, raw, atol=1e-4 * max(1.0, float(raw.max())))


async def test_one_bad_picture_among_good_ones_fails_alone(engine: Explainer) -> None:
    uploads = [*scenes(3), Upload(b"not a picture", "bad.png"), Upload(scenes(1)[0].data[:300], "cut.png")]
    answer = await engine.answer(replace(MAPS, images=uploads))
    assert [type(picture.error) for picture in answer.images] == [type(None)] * 3 + [InvalidImage] * 2
    assert [picture.index for picture in answer.images] == [0, 1, 2, 3, 4]
    assert all(picture.explanations for picture in answer.images[:3])


async def test_if_all_are_bad_the_error_is_raised(engine: Explainer) -> None:
    with pytest.raises(InvalidImage):
        await engine.answer(replace(MAPS, images=[Upload(b"x"), Upload(b"y")]))
    with pytest.raises(NoImage):
        await engine.answer(replace(MAPS, images=[]))
    with pytest.raises(TooManyImages):
        await engine.answer(replace(MAPS, images=scenes(1) * 33))


async def test_a_deadline_that_passes_leaves_nothing_behind(engine: Explainer) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.answer(replace(MAPS, images=scenes(8), timeout_s=0.001))
    assert engine.admission.inside == 0
    await asyncio.sleep(0.05)
    assert await ask(engine, scenes(1)[0])


async def test_the_queue_is_bounded(engine: Explainer) -> None:
    requests = [engine.answer(replace(MAPS, images=scenes(16))) for _ in range(6)]
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Overloaded)]
    assert len(refused) == 2  # 64 of 96 pictures have room
    assert all(error.retry_after_s >= 1 for error in refused)
    assert engine.admission.inside == 0


async def test_a_cancelled_request_disturbs_nobody(engine: Explainer) -> None:
    expected = await ask(engine, scenes(1)[0])
    others = [asyncio.ensure_future(engine.answer(Request(scenes(4), op="predict"))) for _ in range(4)]
    victim = asyncio.ensure_future(engine.answer(replace(MAPS, images=scenes(8))))
    await until(lambda: engine.workers()[0].batches)  # those before it are computed first
    victim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await victim
    await asyncio.gather(*others)
    found = await ask(engine, scenes(1)[0])
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    assert engine.admission.inside == 0


async def test_predictions_alone_have_no_maps(engine: Explainer) -> None:
    answer = await engine.answer(Request(scenes(1), op="predict", top_k=3))
    (picture,) = answer.images
    assert len(picture.predictions) == 3
    assert picture.explanations == ()
    explained = await engine.answer(Request(scenes(1), outputs=("map",)))
    assert [score.index for score in picture.predictions] == [
        score.index for score in explained.images[0].predictions[:3]
    ]
    assert explained.images[0].explanations[0].target == explained.images[0].predictions[0]


async def test_a_worker_killed_in_mid_batch_is_replaced_and_its_pictures_answered(engine: Explainer) -> None:
    uploads = scenes(12)
    expected = [await ask(engine, upload) for upload in uploads]
    (worker,) = engine.workers()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGSTOP)  # so that it cannot have ended before it is killed
    request = asyncio.ensure_future(engine.answer(replace(MAPS, images=uploads, timeout_s=300)))
    await until(lambda: engine.workers()[0].batches)
    os.kill(worker.pid, signal.SIGKILL)
    answer = await request
    for picture, raws in zip(answer.images, expected, strict=True):
        assert picture.error is None
        np.testing.assert_allclose(picture.explanations[0].raw, raws[0], rtol=1e-3, atol=1e-5)
    assert [each.pid for each in engine.workers()] != [worker.pid]
    count = engine.pool._metrics.registry.get_sample_value
    assert count("camserve_worker_restarts_total", {"reason": "signal"}) == 1
    assert (count("camserve_retried_total", {"reason": "signal"}) or 0) >= 1


async def test_a_folder_named_like_ours_where_it_is_started_is_no_trap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__init__.py").write_text("raise RuntimeError('this is the wrong one')")
    monkeypatch.chdir(tmp_path)
    explainer = await started()
    try:
        assert explainer.pool.status().state == "ready"
    finally:
        await explainer.stop()


async def test_pictures_wait_for_room_and_leave_it_whatever_becomes_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_threads, "_SMALL_PIXELS", 0)  # small ones have room beside
    engine = await started(InProcessWorker, max_open_pixels=120 * 90)  # of these pictures, one at a time
    try:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, engine.pipeline.threads.used)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        uploads = [*scenes(6), Upload(b"not a picture"), Upload(scenes(1)[0].data[:300])]
        answer = await engine.answer(Request(uploads, outputs=("overlay",)))
        assert [picture.error is None for picture in answer.images] == [True] * 6 + [False] * 2
        with pytest.raises(DeadlineExceeded):
            await engine.answer(replace(MAPS, images=scenes(6), timeout_s=0.001))
        watching.cancel()
        assert most == 120 * 90
        await until(lambda: engine.pipeline.threads.used == 0)
        assert (await engine.answer(replace(MAPS, images=scenes(1)))).images[0].explanations
    finally:
        await engine.stop()


async def test_stopping_answers_pictures_in_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_threads, "_SMALL_PIXELS", 0)
    # One is decoded, the others wait for room.
    engine = await started(InProcessWorker, max_open_pixels=120 * 90, decode_threads=1)
    decoding, go_on = threading.Event(), threading.Event()
    open_picture = pipeline._open

    def slowly(*arguments: Any) -> Any:
        decoding.set()
        go_on.wait(20)
        return open_picture(*arguments)

    monkeypatch.setattr(pipeline, "_open", slowly)
    requests = [asyncio.create_task(engine.answer(replace(MAPS, images=scenes(2)))) for _ in range(3)]
    await asyncio.to_thread(decoding.wait, 20)
    try:
        stopping = asyncio.create_task(engine.stop())
        ends = await asyncio.wait_for(asyncio.gather(*requests, return_exceptions=True), 10)
    finally:
        go_on.set()
    await stopping
    assert [type(end) for end in ends] == [NotReady] * 3
    assert engine._metrics.registry.get_sample_value("camserve_expired_total", {"stage": "decode"}) == 0


async def test_an_error_does_not_hold_on_to_its_picture(engine: Explainer) -> None:
    answer = await engine.answer(replace(MAPS, images=[*scenes(1), Upload(scenes(1)[0].data[:300])]))
    error = answer.images[1].error
    assert error is not None
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


async def test_weights_that_cannot_be_fetched_say_why(tmp_path: Path) -> None:
    models = (ModelConfig(name="net", architecture="squeezenet1_1"),)
    changes: dict[str, Any] = {"weights_mirror": f"file://{tmp_path}", "cache_dir": tmp_path / "cache"}
    engine = await started(InProcessWorker, models=models, **changes)
    try:
        with pytest.raises(
            NotReady, match=r"'net' cannot be loaded: .*squeezenet1_1-\w+\.pth cannot be reached .*No such"
        ):
            await engine.answer(replace(MAPS, images=scenes(1)))
        assert list((tmp_path / "cache").iterdir()) == []
    finally:
        await engine.stop()
