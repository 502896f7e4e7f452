"""Offers of another protocol over a real socket: ignored, and a body is never taken for a request."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.toys import png
from tests.web.application import until
from tests.web.sockets import LIVEZ, Listening, head, listening, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PICTURE = png()
PREDICT = request(PICTURE)
# A body that is a request, as an attacker would have it answered behind a proxy's back.
SMUGGLED = head("/version", "GET")


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def only_server() -> AsyncIterator[Listening]:
    async with listening() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def server(only_server: Listening) -> AsyncIterator[Listening]:
    """The server of all these tests: what comes over one connection is nothing to the next."""
    yield only_server
    await only_server.forget()


def offering(body: bytes, lines: str, path: str = "/api/v1/predict", media_type: str = "image/png") -> bytes:
    """A POST with ``body`` and the header lines of an offer."""
    first = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {media_type}\r\n"
    return f"{first}{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


OFFERS = {
    "curl's": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "two": "Upgrade: a\r\nConnection: Upgrade\r\nUpgrade: b\r\n",
    "two in a row": "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: h2c\r\n",
    "three, each on its own": "Connection: upgrade\r\nUpgrade: a\r\nConnection: UPGRADE\r\nuPGRADE: b\r\nupgrade:c\r\n",
    "a list": "Connection: keep-alive, Upgrade\r\nUpgrade: websocket, h2c\r\n",
    "a web socket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "half an offer": "Upgrade: h2c\r\n",
    "nothing": "Connection: Upgrade\r\nUpgrade:\r\n",
    "one hidden in another": "X: y\r\nConnection: Upgrade\r\nX-Upgrade: no\r\nUpgrade: \t h2c \t\r\n",
}

BEFORE = {"nothing": b"", "a blank line": b"\r\n", "many": b"\r\n" * 20, "bare line feeds": b"\n\n\n"}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
@pytest.mark.parametrize("lines", OFFERS.values(), ids=OFFERS)
async def test_an_offer_is_ignored_and_the_connection_closes(server: Listening, lines: str, before: bytes) -> None:
    caller = await server.call(before + offering(PICTURE, lines))
    reply = await caller.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert "upgrade" not in reply.headers
    assert len(reply.problem["results"]) == 1
    assert await caller.rest() == b""


@pytest.mark.parametrize("before", [b"", b"\r\n\r\n", LIVEZ, LIVEZ + b"\r\n" + LIVEZ], ids=str)
@pytest.mark.parametrize("lines", OFFERS.values(), ids=OFFERS)
async def test_a_body_is_no_second_request(server: Listening, lines: str, before: bytes) -> None:
    caller = await server.call(before + offering(SMUGGLED, lines, media_type="text/plain") + SMUGGLED)
    answers = await caller.rest()
    assert answers.count(b"HTTP/1.1 ") == before.count(b"GET") + 1
    assert answers.count(b"HTTP/1.1 415") == 1
    assert b"camserve" not in answers.split(b"HTTP/1.1 415")[1]


@pytest.mark.parametrize("lines", [OFFERS["curl's"], OFFERS["two"]], ids=["one", "two"])
async def test_wherever_it_is_cut_the_body_stays_the_body(server: Listening, lines: str) -> None:
    """Each place of the head and of the body's beginning, on a connection of its own."""
    whole = offering(SMUGGLED, lines, media_type="text/plain")
    for cut in range(1, len(whole)):
        caller = await server.call(whole[:cut])
        await until(lambda: server.connections == 1)
        await caller.send(whole[cut:])
        answers = await caller.rest()
        assert (cut, answers.count(b"HTTP/1.1 ")) == (cut, 1)
        assert b"HTTP/1.1 415" in answers
        caller.close()
        await until(lambda: server.connections == 0)


async def test_byte_by_byte(server: Listening) -> None:
    caller = await server.call()
    await caller.trickle(b"\r\n" + offering(PICTURE, OFFERS["three, each on its own"]), 0)
    assert (await caller.reply()).status == 200
    assert await caller.rest() == b""


async def test_in_three_pieces_with_the_picture_in_two(server: Listening) -> None:
    whole = offering(PICTURE, OFFERS["two"])
    cuts = [0, 30, len(whole) - 40, len(whole)]
    caller = await server.call()
    for begin, end in pairwise(cuts):
        await caller.send(whole[begin:end])
    assert (await caller.reply()).status == 200


async def test_an_offer_in_advance_is_answered_in_its_turn(server: Listening) -> None:
    server.application.worker.held = True
    caller = await server.call(PREDICT + offering(PICTURE, OFFERS["two"]) + PREDICT)
    await until(lambda: server.application.worker.running)
    server.application.worker.held = False
    server.application.worker.finish()
    first, second = await caller.reply(), await caller.reply()
    assert (first.status, second.status) == (200, 200)
    assert "connection" not in first.headers
    assert second.headers["connection"] == "close"
    assert await caller.rest() == b""


CHUNKS = b"%x\r\n%s\r\n0\r\nX-Trailer: 1\r\n\r\n" % (len(PICTURE), PICTURE)


async def test_chunks_are_put_together(server: Listening) -> None:
    data = head(
        content_type="image/png", connection="Upgrade", upgrade="h2c", Upgrade="h2c", transfer_encoding="chunked"
    )
    caller = await server.call(data + CHUNKS[:20])
    await caller.send(CHUNKS[20:])
    assert (await caller.reply()).status == 200
    assert await caller.rest() == b""


FAULTS = {
    "two lengths": ("Content-Length: 3\r\n", b"abc"),
    "a length and chunks": ("Transfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "something behind chunks": ("Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"),
}


@pytest.mark.parametrize(("lines", "body"), FAULTS.values(), ids=FAULTS)
async def test_an_offer_does_not_hide_a_faulty_frame(server: Listening, lines: str, body: bytes) -> None:
    caller = await server.call(offering(body, f"{OFFERS['two']}{lines}"))
    assert (await caller.reply()).status == 400
    assert await caller.rest() == b""


async def test_a_bad_chunk_is_refused_as_without_an_offer(server: Listening) -> None:
    data = head(content_type="image/png", connection="Upgrade", upgrade="h2c", transfer_encoding="chunked")
    caller = await server.call(data + b"xyz\r\n")
    assert (await caller.reply()).status == 400
    assert await caller.rest() == b""


async def test_a_client_that_asks_first_is_told_to_go_on(server: Listening) -> None:
    data = head(
        content_type="image/png",
        content_length=len(PICTURE),
        expect="100-continue",
        connection="Upgrade",
        upgrade="h2c",
    )
    caller = await server.call(data)
    assert (await caller.reply()).status == 100
    await caller.send(PICTURE)
    assert (await caller.reply()).status == 200


@pytest.mark.parametrize(
    "closing",
    [
        head("/livez", "GET", connection="close"),
        head("/livez", "GET", connection="Upgrade", upgrade="h2c"),
        b"GET /livez HTTP/1.0\r\n\r\n",
    ],
    ids=["told", "offer", "old"],
)
@pytest.mark.parametrize("behind", [LIVEZ, PREDICT, PREDICT[:-5], head("/version", "GET")], ids=str)
async def test_nothing_behind_the_last_request_is_answered(server: Listening, closing: bytes, behind: bytes) -> None:
    caller = await server.call(closing + behind)
    answers = await caller.rest()
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b'"alive"' in answers


async def test_endless_trailers_are_refused(server: Listening) -> None:
    """A trailer without an end is nothing that the parser hands over: it would gather all of it."""
    for offer in ({}, {"connection": "Upgrade", "upgrade": "h2c"}):
        caller = await server.call(head(content_type="image/png", transfer_encoding="chunked", **offer) + b"0\r\nX: ")
        caller.writer.write(b"a" * 2_000_000)
        reply = await caller.reply()
        assert (reply.status, reply.problem["code"]) == (431, "headers_too_large")
        await caller.rest()
        caller.close()
