"""Clients that send too much, and clients that go away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from tests.toys import png
from tests.web.application import Exchange, faked, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.web.application import Application

EXPLAIN = "/api/v1/explain"
GOOD = png()
LIMIT = 100_000


async def in_chunks(size: int, chunk: int = 10_000) -> AsyncIterator[bytes]:
    for start in range(0, size, chunk):
        yield bytes(min(chunk, size - start))


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    "content_type", ["image/png", "application/json", "multipart/form-data; boundary=B", "application/octet-stream"]
)
async def test_a_body_over_the_limit_is_refused(
    application: Application, client: httpx.AsyncClient, content_type: str, *, announced: bool
) -> None:
    content = bytes(LIMIT + 1) if announced else in_chunks(LIMIT + 1)
    if content_type.startswith("multipart") and not announced:
        content = in_form(LIMIT + 1)
    response = await client.post(EXPLAIN, content=content, headers={"Content-Type": content_type})
    assert ("content-length" in response.request.headers) == announced
    assert response.status_code == 413
    assert response.json()["code"] == "body_too_large"
    assert str(LIMIT) in response.json()["detail"]
    assert application.metric("camserve_rejected_total", code="body_too_large") == 1


async def in_form(size: int) -> AsyncIterator[bytes]:
    yield b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    async for chunk in in_chunks(size):
        yield chunk
    yield b"\r\n--B--\r\n"


async def test_an_announced_one_is_refused_before_it_is_read(application: Application) -> None:
    exchange = Exchange(EXPLAIN, b"", content_type="image/png", content_length=str(10**12))
    await exchange.start(application)
    assert exchange.status == 413
    assert exchange.reads == 0


@pytest.mark.parametrize("length", ["0", "-1", "1e9", "x", "", "0" * 30 + "999999999", "٣"])
async def test_a_length_that_lies_does_not_help(application: Application, length: str) -> None:
    exchange = Exchange(EXPLAIN, bytes(LIMIT + 1), content_type="image/png", content_length=length)
    await exchange.start(application)
    assert exchange.status == 413


async def test_a_body_of_just_the_limit_is_read(client: httpx.AsyncClient) -> None:
    padded = GOOD + bytes(LIMIT - len(GOOD))
    response = await client.post(EXPLAIN, content=padded, headers={"Content-Type": "image/png"})
    assert response.status_code == 200


# -- together ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def narrow() -> AsyncIterator[Application]:
    """An application with room for one and a half bodies."""
    async with faked(max_body_bytes=LIMIT, max_inflight_bytes=LIMIT * 3 // 2) as application:
        yield application


def half(**headers: str) -> Exchange:
    return Exchange(EXPLAIN, bytes(LIMIT), complete=False, content_type="image/png", **headers)


async def test_bodies_that_there_is_no_room_for_are_refused(narrow: Application) -> None:
    first, second = half(), half()
    waiting = first.start(narrow)
    await until(lambda: first.reads > 1)
    await second.start(narrow)
    assert second.status == 429
    assert (b"retry-after", b"1") in second.sent[0]["headers"]
    assert b'"code":"overloaded"' in second.sent[1]["body"]
    assert narrow.metric("camserve_rejected_total", code="overloaded") == 1
    async with narrow.client() as client:
        small = await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})
        assert small.status_code == 200, "what fits is let in"
    first.gone.set()
    await waiting


async def test_an_announced_body_is_refused_before_it_is_read_and_takes_no_room_itself(narrow: Application) -> None:
    slow = Exchange(EXPLAIN, b"x", complete=False, content_type="image/png", content_length=str(LIMIT))
    first, second = half(content_length=str(LIMIT)), half(content_length=str(LIMIT))
    tasks = [slow.start(narrow), first.start(narrow)]
    await until(lambda: slow.reads > 1 and first.reads > 1)
    await second.start(narrow)
    assert (second.status, second.reads) == (429, 0)
    assert (slow.status, first.status) == (None, None)
    slow.gone.set()
    first.gone.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("how", ["answered", "refused", "gone"])
async def test_room_is_free_again_when_a_request_has_ended(narrow: Application, how: str) -> None:
    for _ in range(5):
        if how == "gone":
            exchange = half()
            task = exchange.start(narrow)
            await until(lambda: exchange.reads > 1)  # noqa: B023 - it is called at once
            exchange.gone.set()
            await task
            continue
        content = GOOD + bytes(LIMIT - len(GOOD) + (how == "refused"))
        async with narrow.client() as client:
            response = await client.post(EXPLAIN, content=content, headers={"Content-Type": "image/png"})
        assert response.status_code == (200 if how == "answered" else 413)


# -- gone -------------------------------------------------------------------------------------------------------------


async def test_gone_while_the_picture_waits(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    first, second = (Exchange(EXPLAIN, GOOD, content_type="image/png") for _ in range(2))
    computing = first.start(application)
    await until(lambda: application.worker.running)
    waiting = second.start(application)
    await until(lambda: application.metric("camserve_queue_depth") == 1)

    second.gone.set()
    await waiting
    assert second.sent == []
    assert application.metric("camserve_queue_depth") == 0
    assert application.explainer.admission.inside == 1

    application.worker.held = False
    application.worker.finish()
    await computing
    assert first.status == 200
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 200
    assert len(application.worker.sent) == 2, "the picture of the one that went away is not computed"


async def test_gone_while_the_picture_is_computed(
    application: Application, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    application.worker.held = True
    exchange = Exchange(EXPLAIN, GOOD, content_type="image/png")
    task = exchange.start(application)
    await until(lambda: application.worker.running)
    exchange.gone.set()
    await task
    assert exchange.sent == []
    assert application.explainer.admission.inside == 0

    application.worker.held = False
    application.worker.finish()
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 200
    assert application.metric("camserve_requests_total", route=EXPLAIN, status="499") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_gone_with_some_of_its_pictures_computed(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    files = [("image", ("a.png", GOOD)), ("image", ("b.png", png(seed=1)))]
    body = client.build_request("POST", EXPLAIN, files=files)
    content_type = body.headers["Content-Type"]
    exchange = Exchange(EXPLAIN, body.read(), content_type=content_type)
    task = exchange.start(application)
    await until(lambda: application.worker.running)
    exchange.gone.set()
    await task
    assert exchange.sent == []
    await until(lambda: application.metric("camserve_queue_depth") == 0)
    application.worker.held = False
    application.worker.finish()
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "begun"),
    [
        ("image/png", GOOD[:100]),
        ("application/json", b'{"images": [{"b64": "'),
        (
            "multipart/form-data; boundary=B",
            b'--B\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx',
        ),
    ],
)
async def test_gone_in_the_middle_of_the_body(
    application: Application,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
    content_type: str,
    begun: bytes,
) -> None:
    exchange = Exchange(EXPLAIN, begun, complete=False, content_type=content_type)
    task = exchange.start(application)
    exchange.gone.set()
    await task
    assert exchange.sent == []
    assert application.metric("camserve_requests_total", route=EXPLAIN, status="499") == 1
    assert application.metric("camserve_requests_total", route=EXPLAIN, status="500") == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (await client.post(EXPLAIN, content=GOOD, headers={"Content-Type": "image/png"})).status_code == 200


async def test_nobody_is_inside_once_all_are_gone(application: Application) -> None:
    await leave(application)
    assert application.explainer.admission.inside == 0


async def test_the_gauge_of_those_inside_falls_once_all_are_gone(application: Application) -> None:
    await leave(application)
    assert application.metric("camserve_in_flight") == 0


async def leave(application: Application) -> None:
    application.worker.held = True
    exchanges = [Exchange(EXPLAIN, GOOD, content_type="image/png") for _ in range(2)]
    tasks = [exchange.start(application) for exchange in exchanges]
    await until(lambda: application.explainer.admission.inside == 2)
    for exchange in exchanges:
        exchange.gone.set()
    for task in tasks:
        await task


async def test_the_server_stopping_is_not_the_client_leaving(application: Application) -> None:
    application.worker.held = True
    exchange = Exchange(EXPLAIN, GOOD, content_type="image/png")
    task = exchange.start(application)
    await until(lambda: application.worker.running)
    await application.explainer.stop()
    await task
    assert exchange.status == 503
