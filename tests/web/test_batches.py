"""Who is computed together, seen from the clients: what they may differ in and what not, and how many there are."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.engine import pipeline
from service.models.info import Head
from tests.toys import png
from tests.web.application import PETS, Exchange, answer_row, faked, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from service.cam.targets import Targets
    from service.engine.messages import Lane, RowAnswer
    from tests.web.application import Application

EXPLAIN, PREDICT = "/api/v1/explain", "/api/v1/predict"
IMAGE = {"Content-Type": "image/png"}
FINE = Head(tuple(f"class {index}" for index in range(7)))
TWO_HEADS = replace(PETS, heads={"coarse": Head(PETS.labels), "fine": FINE}, default_head="coarse")


def by_head(lane: Lane, question: Targets) -> RowAnswer:
    """Three logits, or the seven of the other head, the last of them the highest."""
    row = answer_row(lane, question)
    return replace(row, logits=np.arange(7, dtype=np.float32)) if lane.head == "fine" else row


@asynccontextmanager
async def busy(**settings: Any) -> AsyncIterator[tuple[Application, httpx.AsyncClient]]:
    """An application whose worker computes already: what comes now waits, and may share the next batch."""
    async with faked(known=TWO_HEADS, **settings) as application, application.client(headers=IMAGE) as client:
        application.worker.outcome = by_head
        application.worker.held = True
        first = Exchange(EXPLAIN, png(), content_type="image/png")
        task = first.start(application)
        await until(lambda: application.worker.sent)
        yield application, client
        await task


async def answers_of(
    application: Application, client: httpx.AsyncClient, *asked: tuple[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Ask one after the other while the worker is busy, then let it compute; return the results."""
    tasks = []
    for waiting, (path, query) in enumerate(asked, start=1):
        tasks.append(asyncio.create_task(client.post(path, params=query, content=png())))
        await until(lambda: application.metric("camserve_queue_depth") == waiting)  # noqa: B023 - it is called at once
    application.worker.held = False
    application.worker.finish()
    responses = [await task for task in tasks]
    assert [response.status_code for response in responses] == [200] * len(asked), responses[-1].text
    return [response.json()["results"][0] for response in responses]


def sizes(application: Application) -> list[int]:
    """How many pictures each batch had, without the one that kept the worker busy."""
    return [len(run.targets) for run in application.worker.sent][1:]


@pytest.mark.parametrize(
    "options",
    [
        {"target": "dog"},
        {"target": "top-2", "against": "owl"},
        {"output": "regions"},
        {"colormap": "viridis", "alpha": 1, "max_side": 16, "size": "layer", "image_format": "webp"},
        {"top_k": 1},
        {"head": "coarse"},
        {"layer": "conv2"},
        {"augment": "none", "smooth": 0},
    ],
    ids=str,
)
async def test_what_differs_in_the_question_or_the_drawing_goes_together(options: dict[str, Any]) -> None:
    async with busy() as (application, client):
        await answers_of(application, client, (EXPLAIN, {}), (EXPLAIN, options))
        assert sizes(application) == [2]


@pytest.mark.parametrize(
    "options",
    [
        {"layer": "conv1"},
        {"layer": ["conv1", "conv2"]},
        {"method": "layercam"},
        {"signed": True},
        {"smooth": 2},
        {"augment": "flip"},
        {"layer": ["conv1", "conv2"], "fuse": "max"},
        {"head": "fine"},
    ],
    ids=str,
)
async def test_what_differs_in_the_computation_does_not(options: dict[str, Any]) -> None:
    async with busy() as (application, client):
        await answers_of(application, client, (EXPLAIN, {}), (EXPLAIN, options), (PREDICT, {}))
        assert sizes(application) == [1, 1, 1]


async def test_ways_to_fuse_do_not_go_together() -> None:
    layers = {"layer": ["conv1", "conv2"]}
    asked = [(EXPLAIN, {**layers, "fuse": how}) for how in ("max", "mean", "product")]
    async with busy() as (application, client):
        await answers_of(application, client, *asked)
        assert sizes(application) == [1, 1, 1]


@pytest.mark.parametrize("path", [EXPLAIN, PREDICT])
async def test_two_heads_asked_at_once_answer_each_for_itself(path: str) -> None:
    async with busy() as (application, client):
        heads = ["coarse", "fine", "coarse", " fine "]
        results = await answers_of(application, client, *[(path, {"head": head}) for head in heads])
        assert sizes(application) == [2, 2]
    found = [result["predictions"][0]["label"] for result in results]
    assert found == ["dog", "class 6", "dog", "class 6"]


async def test_a_batch_knows_whose_each_picture_is() -> None:
    async with busy() as (application, client):
        tasks = []
        for waiting, name in enumerate(("first", "second", "third"), start=1):
            headers = {"X-Request-ID": name}
            tasks.append(asyncio.create_task(client.post(PREDICT, content=png(), headers=headers)))
            await until(lambda: application.metric("camserve_queue_depth") == waiting)  # noqa: B023 - called at once
        application.worker.held = False
        application.worker.finish()
        assert [(await task).headers["X-Request-ID"] for task in tasks] == ["first", "second", "third"]
        assert application.worker.sent[-1].request_ids == ("first", "second", "third")


# -- how many ---------------------------------------------------------------------------------------------------------

INPUT_PIXELS = PETS.preprocess.height * PETS.preprocess.width


@pytest.mark.parametrize(("pixels", "expected"), [(3 * INPUT_PIXELS, [3, 1]), (3 * INPUT_PIXELS - 1, [2, 2])])
async def test_a_batch_has_as_many_pixels_as_it_may(pixels: int, expected: list[int]) -> None:
    async with busy(max_batch_pixels=pixels) as (application, client):
        await answers_of(application, client, *[(PREDICT, {})] * 4)
        assert sizes(application) == expected


async def test_a_batch_has_as_many_pictures_as_it_may() -> None:
    async with busy(max_batch_size=3) as (application, client):
        await answers_of(application, client, *[(PREDICT, {})] * 4)
        assert sizes(application) == [3, 1]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"smooth": 2}, [2]),
        ({"augment": "flip"}, [2]),
        ({"target": "top-2"}, [2]),
        ({"smooth": 5}, [1, 1]),
        ({"smooth": 3, "augment": "flip"}, [1, 1]),
        ({"smooth": 2, "target": "top-3", "layer": "conv1", "method": ["gradcam", "finercam"]}, [1, 1]),
    ],
    ids=str,
)
async def test_what_is_many_passes_is_large(options: dict[str, Any], expected: list[int]) -> None:
    """A large picture is computed alone, whatever it is that makes it large."""
    async with busy() as (application, client):
        # A large batch runs beside a small one: that of another request of the kind keeps the worker busy.
        application.worker.finish()
        application.worker.sent.clear()
        task = asyncio.create_task(client.post(EXPLAIN, params=options, content=png()))
        await until(lambda: application.worker.sent)
        await answers_of(application, client, *[(EXPLAIN, options)] * 2)
        await task
        assert sizes(application) == expected


# -- room -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["output=map", "output=overlay", "output=overlay&size=layer", "size=model"])
async def test_a_picture_that_waits_for_its_map_holds_no_room(options: str) -> None:
    async with faked(max_open_pixels=10_001) as application:
        application.worker.held = True
        tasks = []
        for _ in range(2):
            exchange = Exchange(EXPLAIN, png(np.zeros((100, 100, 3), np.uint8)), content_type="image/png")
            exchange.scope["query_string"] = options.encode()
            tasks.append(exchange.start(application))
        await until(lambda: application.worker.running and application.metric("camserve_queue_depth") == 1)
        assert application.explainer.pipeline.threads.used == 0
        application.worker.held = False
        application.worker.finish()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("size", ["picture", "model", "layer"])
async def test_what_is_too_large_to_be_kept_is_decoded_again(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    options = {"output": ["overlay", "heatmap"], "size": size, "target": "top-3", "image_format": "png"}
    picture = png(size=(300, 200))
    async with faked() as application, application.client() as client:
        kept = await client.post(EXPLAIN, params=options, files={"image": picture})
        monkeypatch.setattr(pipeline, "KEPT_PIXELS", 0)
        anew = await client.post(EXPLAIN, params=options, files={"image": picture})
    assert kept.json()["results"] == anew.json()["results"]
    assert len(anew.json()["results"][0]["explanations"]) == 3
