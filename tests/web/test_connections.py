"""Clients that are slow, rude or gone, over a real socket: each loses its own connection and nobody else's time."""

from __future__ import annotations

import asyncio
import logging
from itertools import product
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from service.problems import MEDIA_TYPE
from service.web.connection import RESERVE
from tests.toys import png
from tests.web.application import until
from tests.web.sockets import LIVEZ, Caller, Listening, head, listening, request
from tests.web.test_headers import check

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PICTURE = png()
PREDICT = request(PICTURE)
QUICK = {"header_timeout_s": 0.3, "stall_timeout_s": 0.4, "transfer_timeout_s": 1.0, "keep_alive_s": 1}


@pytest.fixture
async def server() -> AsyncIterator[Listening]:
    async with listening() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def only_server() -> AsyncIterator[Listening]:
    async with listening() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def shared(only_server: Listening) -> AsyncIterator[Listening]:
    """A server of many tests: what comes over one connection is nothing to the next."""
    yield only_server
    await only_server.forget()


on_a_shared_server = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
async def hasty() -> AsyncIterator[Listening]:
    """A server that waits for a few tenths of a second only."""
    async with listening(**QUICK) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_in_the_log_asks_for_help(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def still_serves(server: Listening) -> None:
    """Whatever happened: nothing is left behind, and the next request is answered."""
    caller = await server.call(PREDICT)
    assert (await caller.reply()).status == 200
    caller.close()
    await until(lambda: server.connections == 0)
    assert server.application.explainer.admission.inside == 0
    assert not server.server.server_state.tasks


def ended(server: Listening, reason: str) -> float:
    return server.application.metric("camserve_connections_ended_total", reason=reason)


# -- heads ------------------------------------------------------------------------------------------------------------


async def test_who_says_nothing_is_left_without_a_word(hasty: Listening) -> None:
    caller = await hasty.call()
    assert await caller.rest() == b""
    assert ended(hasty, "head") == 1
    await still_serves(hasty)


@pytest.mark.parametrize("dripped", [PREDICT[:60], LIVEZ[:-2]])
async def test_a_head_that_drips_is_refused(hasty: Listening, dripped: bytes) -> None:
    caller = await hasty.call()
    dripping = asyncio.create_task(caller.trickle(dripped * 20, 0.05))
    reply = await caller.reply()
    assert (reply.status, reply.headers["content-type"], reply.headers["connection"]) == (408, MEDIA_TYPE, "close")
    assert reply.problem["code"] == "request_timeout"
    assert reply.problem["request_id"] == reply.headers["x-request-id"].upper()
    await caller.rest()
    await dripping
    assert ended(hasty, "head") == 1
    await still_serves(hasty)


async def test_empty_lines_do_not_keep_a_connection_open(hasty: Listening) -> None:
    caller = await hasty.call(LIVEZ)
    assert (await caller.reply()).status == 200
    dripping = asyncio.create_task(caller.trickle(b"\r\n" * 50, 0.05))
    await caller.rest()
    await dripping
    await still_serves(hasty)


async def test_a_head_in_pieces_is_a_head(server: Listening) -> None:
    caller = await server.call()
    await caller.trickle(LIVEZ, 0.001)
    assert (await caller.reply()).status == 200


async def test_an_idle_connection_is_closed(hasty: Listening) -> None:
    caller = await hasty.call(LIVEZ + LIVEZ)
    assert [(await caller.reply()).status for _ in range(2)] == [200, 200]
    assert await caller.rest() == b""
    assert hasty.connections == 0


@pytest.mark.slow
@pytest.mark.alone
async def test_an_idle_connection_stays_for_as_long_as_the_settings_say() -> None:
    async with listening(keep_alive_s=600) as server:
        caller = await server.call(LIVEZ)
        assert (await caller.reply()).status == 200
        await asyncio.sleep(6)  # longer than uvicorn would keep it by itself
        await caller.send(LIVEZ)
        assert (await caller.reply()).status == 200


BIG = {
    "a long header": head("/livez", "GET", x=200_000 * "a"),
    "many headers": head("/livez", "GET", **{f"x{number}": "a" * 100 for number in range(1000)}),
    "a long path": head("/" + 100_000 * "a", "GET"),
    "a header without an end": b"GET /livez HTTP/1.1\r\nX: " + 2_000_000 * b"a",
    "headers without an end": b"GET /livez HTTP/1.1\r\n" + 20_000 * b"X: aaaaaaaa\r\n",
}


@on_a_shared_server
@pytest.mark.parametrize("data", BIG.values(), ids=BIG)
async def test_a_head_that_is_too_large_is_refused(shared: Listening, data: bytes) -> None:
    caller = await shared.call()
    caller.writer.write(data)
    reply = await caller.reply()
    assert (reply.status, reply.problem["code"]) == (431, "headers_too_large")
    await caller.rest()
    caller.close()
    await still_serves(shared)


@on_a_shared_server
@pytest.mark.parametrize(("excess", "status"), [(0, 200), (1, 431)])
async def test_64_kilobytes_of_headers_are_not_too_large(shared: Listening, excess: int, status: int) -> None:
    """Counted are the path, names and values, each with four bytes for what stands between them."""
    fields = {"/livez": "", "host": "camserve.test", "cookie": ""}
    counted = sum(len(name) + len(value) + 4 for name, value in fields.items())
    caller = await shared.call(head("/livez", "GET", cookie="a" * (64 * 1024 - counted + excess)))
    assert (await caller.reply()).status == status


# -- malformed requests -----------------------------------------------------------------------------------------------

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "two lengths": head(content_length=5, Content_Length=6) + b"12345",
    "a length and chunks": head(content_length=5, transfer_encoding="chunked") + b"0\r\n\r\n",
    "chunks and something else": head(transfer_encoding="chunked, identity") + b"0\r\n\r\n",
    "a negative length": head(content_length=-1),
    "a length that is none": head(content_length="5a") + b"12345",
    "a length with a sign": head(content_length="+5") + b"12345",
    "a bad chunk size": head(content_type="image/png", transfer_encoding="chunked") + b"xyz\r\n",
    "a huge chunk size": head(content_type="image/png", transfer_encoding="chunked") + b"f" * 17 + b"\r\n",
    "a space before the colon": b"GET /livez HTTP/1.1\r\nHost : a\r\n\r\n",
    "a header with a line feed": b"GET /livez HTTP/1.1\r\nHost: a\r\n b\x00: c\r\n\r\n",
    "no such method": b"EXPLAIN /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "no such version": b"GET /livez HTTP/3.7\r\nHost: a\r\n\r\n",
    "HTTP/2 without asking": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path of nothing but a host": b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
    "a tunnel": b"CONNECT camserve.test:443 HTTP/1.1\r\nHost: a\r\n\r\n",
}


@on_a_shared_server
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
async def test_what_is_not_http_is_refused_and_closed(shared: Listening, data: bytes) -> None:
    before = ended(shared, "malformed")
    caller = await shared.call(data)
    reply = await caller.reply()
    assert (reply.status, reply.headers["content-type"], reply.headers["connection"]) == (400, MEDIA_TYPE, "close")
    assert reply.problem["code"] == "invalid_request"
    check(httpx.Response(reply.status, headers=reply.headers), "")
    assert await caller.rest() == b"", "nothing behind it is taken for a request"
    assert ended(shared, "malformed") == before + 1
    await still_serves(shared)


async def test_what_comes_behind_the_body_is_no_header(server: Listening) -> None:
    body = b"5\r\n12345\r\n0\r\nX-Request-ID: behind\r\nContent-Type: image/png\r\n\r\n"
    caller = await server.call(head(transfer_encoding="chunked") + body)
    reply = await caller.reply()
    assert (reply.status, reply.problem["code"]) == (415, "unsupported_media_type")
    assert reply.headers["x-request-id"] != "behind"
    await caller.send(LIVEZ)
    assert (await caller.reply()).status == 200


UNUSUAL = {
    "the old version": (b"GET /livez HTTP/1.0\r\n\r\n", 200),
    "a whole address": (b"GET http://camserve.test/livez HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n", 200),
    "another case": (b"GET /livez HTTP/1.1\r\nhOST: LocalHost:8000\r\nACCEPT: */*\r\n\r\n", 200),
    "a method that other servers have": (b"PROPFIND /livez HTTP/1.1\r\nHost: [::1]\r\n\r\n", 405),
    "everything": (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
}


@on_a_shared_server
@pytest.mark.parametrize(("data", "status"), UNUSUAL.values(), ids=UNUSUAL)
async def test_the_unusual_is_answered(shared: Listening, data: bytes, status: int) -> None:
    caller = await shared.call(data)
    assert (await caller.reply()).status == status


OFFERS = {
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    "HTTP/2": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "two": b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n",
    "without Connection": b"Upgrade: h2c\r\n",
}
HIDDEN = head("/version", "GET")  # what a proxy takes for a body, and must not be answered


def offered(offer: bytes, body: bytes, framing: bytes | None = None) -> bytes:
    framing = framing or b"Content-Length: %d\r\n" % len(body)
    lines = b"Host: camserve.test\r\nContent-Type: image/png\r\n"
    return b"POST /api/v1/predict HTTP/1.1\r\n" + lines + offer + framing + b"\r\n" + body


@on_a_shared_server
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize("before", [b"", b"\r\n\r\n"], ids=["at once", "behind blank lines"])
@pytest.mark.parametrize("cut", [None, 40, 120, -20], ids=["whole", "in the head", "in the offer", "in the body"])
async def test_an_offer_of_another_protocol_is_ignored(
    shared: Listening, offer: bytes, before: bytes, cut: int | None
) -> None:
    shared.application.worker.held = False
    data = before + offered(offer, PICTURE)
    caller = await shared.call(data[:cut])
    if cut is not None:
        await asyncio.sleep(0.05)
        await caller.send(data[cut:])
    reply = await caller.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert await caller.rest() == b""


@on_a_shared_server
@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
async def test_the_body_behind_an_offer_is_no_request(shared: Listening, offer: bytes) -> None:
    caller = await shared.call(offered(offer, HIDDEN))
    reply = await caller.reply()
    assert (reply.status, reply.problem["code"]) == (400, "invalid_image")
    assert await caller.rest() == b""


async def test_a_body_in_chunks_behind_an_offer_is_read(server: Listening) -> None:
    server.application.worker.held = False
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PICTURE), PICTURE)
    caller = await server.call(offered(OFFERS["HTTP/2"], chunks, b"Transfer-Encoding: chunked\r\n"))
    assert (await caller.reply()).status == 200


async def test_what_comes_behind_an_offer_in_advance_is_not_answered(server: Listening) -> None:
    server.application.worker.held = False
    caller = await server.call(LIVEZ + offered(OFFERS["two"], PICTURE) + HIDDEN)
    assert (await caller.reply()).status == 200
    assert (await caller.reply()).headers["connection"] == "close"
    assert await caller.rest() == b""


HOSTLESS = {
    "none": b"GET /livez HTTP/1.1\r\n\r\n",
    "two": b"GET /livez HTTP/1.1\r\nHost: camserve.test\r\nHost: localhost\r\n\r\n",
    "no name": b"GET /livez HTTP/1.1\r\nHost: a b/c\r\n\r\n",
    "two of the old version": b"GET /livez HTTP/1.0\r\nHost: camserve.test\r\nHost: localhost\r\n\r\n",
}


@on_a_shared_server
@pytest.mark.parametrize("data", HOSTLESS.values(), ids=HOSTLESS)
async def test_a_request_has_one_host(shared: Listening, data: bytes) -> None:
    reply = await (await shared.call(data)).reply()
    assert (reply.status, reply.problem["code"]) == (400, "invalid_request")
    assert "Host" in reply.problem["detail"]


# -- several requests on a connection ---------------------------------------------------------------------------------


async def test_requests_in_advance_are_answered_in_order(server: Listening) -> None:
    caller = await server.call(PREDICT + LIVEZ + PREDICT)
    replies = [await caller.reply() for _ in range(3)]
    assert [b"predictions" in reply.body for reply in replies] == [True, False, True]


async def test_garbage_behind_a_request_does_not_spoil_its_answer(server: Listening) -> None:
    server.application.worker.held = True
    caller = await server.call(PREDICT)
    await until(lambda: server.application.worker.running)
    await caller.send(b"\x00garbage\r\n\r\n")
    await asyncio.sleep(0.05)
    server.application.worker.finish()
    reply = await caller.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert await caller.rest() == b""


async def test_a_client_gone_is_noticed_though_it_asked_for_more(server: Listening) -> None:
    server.application.worker.held = True
    gone = await server.call(PREDICT + PREDICT)
    await until(lambda: server.application.worker.running)
    gone.close()
    await until(lambda: server.application.explainer.admission.inside == 0)


async def test_sixteen_requests_in_advance_are_answered(server: Listening) -> None:
    server.application.worker.held = True
    caller = await server.call(PREDICT + 16 * LIVEZ)
    await until(lambda: server.application.worker.running)
    server.application.worker.finish()
    assert [(await caller.reply()).status for _ in range(17)] == [200] * 17
    assert ended(server, "pipelined") == 0


async def test_one_more_is_a_flood(server: Listening) -> None:
    server.application.worker.held = True
    caller = await server.call(PREDICT + 17 * LIVEZ)
    assert await caller.rest() == b""
    assert ended(server, "pipelined") == 1
    server.application.worker.finish()


async def test_a_flood_of_requests_in_advance_is_broken_off(server: Listening) -> None:
    server.application.worker.held = True
    caller = await server.call(PREDICT + 1000 * LIVEZ)
    assert await caller.rest() == b""
    assert ended(server, "pipelined") == 1
    server.application.worker.held = False
    server.application.worker.finish()
    await still_serves(server)


# -- bodies -----------------------------------------------------------------------------------------------------------

UPLOADS = {
    "body": head(content_type="image/png", content_length=100_000),
    "chunks": head(content_type="image/png", transfer_encoding="chunked") + b"1000\r\n",
    "form": head(content_type="multipart/form-data; boundary=B", content_length=100_000)
    + b'--B\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n',
    "JSON": head(content_type="application/json", content_length=100_000) + b'{"images": [',
}


async def test_a_body_that_stops_or_drips_is_refused(hasty: Listening) -> None:
    """All at once, since each takes as long as the others."""

    async def refused(kind: str, pause_s: float) -> None:
        caller = await hasty.call(UPLOADS[kind])
        dripping = asyncio.create_task(caller.trickle(2000 * b"x", pause_s))
        reply = await caller.reply()
        assert (kind, reply.status, reply.headers["connection"]) == (kind, 408, "close")
        assert reply.problem["code"] == "request_timeout"
        dripping.cancel()
        caller.close()

    stops, drips = 60.0, 0.05
    async with asyncio.TaskGroup() as group:
        for kind, pause_s in product(UPLOADS, [stops, drips]):
            group.create_task(refused(kind, pause_s))
    assert hasty.application.metric("camserve_rejected_total", code="request_timeout") == 2 * len(UPLOADS)
    await still_serves(hasty)


async def test_a_body_in_drops_has_so_long_for_all_of_it() -> None:
    async with listening(stall_timeout_s=600, transfer_timeout_s=0.5) as server:
        caller = await server.call(UPLOADS["body"])
        dripping = asyncio.create_task(caller.trickle(2000 * b"x", 0.02))
        assert (await caller.reply()).status == 408
        dripping.cancel()


async def test_a_slow_body_that_keeps_coming_is_answered() -> None:
    async with listening(stall_timeout_s=3.0) as server:
        caller = await server.call(PREDICT[:-5])
        await caller.trickle(PREDICT[-5:], 0.7)
        assert (await caller.reply()).status == 200


async def test_a_slow_model_is_not_taken_for_a_slow_client(hasty: Listening) -> None:
    hasty.application.worker.held = True
    caller = await hasty.call(PREDICT)
    await asyncio.sleep(1.5)  # longer than all that a client may take
    hasty.application.worker.finish()
    assert (await caller.reply()).status == 200


@pytest.mark.parametrize("data", UPLOADS.values(), ids=UPLOADS)
async def test_a_body_cut_off_leaves_nothing_behind(server: Listening, data: bytes) -> None:
    caller = await server.call(data)
    await until(lambda: server.server.server_state.tasks)
    caller.close()
    await until(lambda: not server.server.server_state.tasks)
    assert server.application.metric("camserve_requests_total", route="/api/v1/predict", status="499") == 1
    await still_serves(server)


async def test_the_rest_of_a_refused_body_is_let_go_and_the_connection_stays(server: Listening) -> None:
    caller = await server.call(head(content_type="text/plain", content_length=3_000_000))
    assert (await caller.reply()).status == 415
    await caller.send(bytes(3_000_000))
    await caller.send(PREDICT)
    assert (await caller.reply()).status == 200


async def test_the_rest_of_a_refused_body_has_to_come_in_time(
    server: Listening, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.web.connection._LINGER_S", 0.3)
    caller = await server.call(head(content_type="text/plain", content_length=3_000_000))
    assert (await caller.reply()).status == 415
    dripping = asyncio.create_task(caller.trickle(bytes(1000), 0.05))
    await caller.rest()
    await dripping
    assert ended(server, "linger") == 1


async def test_who_asks_first_is_refused_before_the_body_is_sent(server: Listening) -> None:
    asks = head(content_type="text/plain", content_length=3_000_000, expect="100-continue")
    caller = await server.call(asks)
    reply = await caller.reply()
    assert (reply.status, reply.headers["connection"]) == (415, "close")
    assert await caller.rest() == b""


async def test_who_asks_first_is_told_to_go_on(server: Listening) -> None:
    caller = await server.call(head(content_type="image/png", content_length=len(PICTURE), expect="100-continue"))
    assert (await caller.reply()).status == 100
    await caller.send(PICTURE)
    assert (await caller.reply()).status == 200


# -- answers ----------------------------------------------------------------------------------------------------------

LARGE = head("/static/swagger/swagger-ui-bundle.js", "GET")


async def test_who_takes_no_answer_is_broken_off(hasty: Listening) -> None:
    caller = await hasty.call(8 * LARGE, receive_buffer=4096)
    await until(lambda: ended(hasty, "unread"))
    await until(lambda: hasty.connections == 0)
    caller.close()
    await still_serves(hasty)


async def test_who_takes_an_answer_byte_by_byte_is_broken_off(hasty: Listening) -> None:
    caller = await hasty.call(8 * LARGE, receive_buffer=4096)
    while hasty.connections and not caller.reader.at_eof():
        await caller.reader.read(100)
        await asyncio.sleep(0.02)
    assert ended(hasty, "unread") == 1
    caller.close()


async def test_who_takes_an_answer_in_drops_has_so_long_for_all_of_it() -> None:
    async with listening(stall_timeout_s=600, transfer_timeout_s=0.5) as server:
        caller = await server.call(8 * LARGE, receive_buffer=4096)
        async with asyncio.timeout(60):
            while server.connections and not caller.reader.at_eof():
                await caller.reader.read(100)
                await asyncio.sleep(0.02)
        assert ended(server, "unread") == 1
        caller.close()


async def test_an_answer_that_is_taken_slowly_but_in_time_is_taken_whole() -> None:
    async with listening(stall_timeout_s=600, transfer_timeout_s=600) as server:
        caller = await server.call(LARGE, receive_buffer=4096)
        await asyncio.sleep(1.5)  # the server has looked at it, and not only once
        assert len((await caller.reply()).body) > 1_000_000
        assert ended(server, "unread") == 0


async def test_an_answer_that_is_not_taken_holds_no_room(server: Listening) -> None:
    server.application.explainer.admission._limit = 1
    rude = [await server.call(request(PICTURE, "/api/v1/explain?output=overlay"), receive_buffer=4096)]
    await until(lambda: server.application.metric("camserve_requests_total", route="/api/v1/explain", status="200"))
    caller = await server.call(PREDICT)
    assert (await caller.reply()).status == 200
    for each in (*rude, caller):
        each.close()


# -- clients that go away ---------------------------------------------------------------------------------------------


async def test_a_client_gone_while_it_waits_is_not_computed(server: Listening) -> None:
    worker = server.application.worker
    worker.held = True
    first = await server.call(PREDICT)
    await until(lambda: worker.running)
    gone = await server.call(PREDICT)
    await until(lambda: server.application.metric("camserve_queue_depth") == 1)
    gone.close()
    await until(lambda: server.application.metric("camserve_queue_depth") == 0)
    worker.held = False
    worker.finish()
    assert (await first.reply()).status == 200
    assert len(worker.sent) == 1
    await until(lambda: server.application.explainer.admission.inside == 0)


async def test_a_client_gone_while_it_is_computed_harms_nobody(server: Listening) -> None:
    worker = server.application.worker
    worker.held = True
    gone = await server.call(PREDICT)
    await until(lambda: worker.running)
    gone.close()
    await until(lambda: server.application.explainer.admission.inside == 0)
    worker.held = False
    worker.finish()
    await still_serves(server)


# -- too many ---------------------------------------------------------------------------------------------------------


async def busy(server: Listening, count: int) -> list[Caller]:
    """Connections that each wait for an answer."""
    server.application.worker.held = True
    callers = [await server.call(PREDICT) for _ in range(count)]
    await until(lambda: server.application.explainer.admission.inside == count)
    return callers


async def test_the_longest_idle_connection_makes_room() -> None:
    async with listening(max_connections=2) as server:
        idle = []
        for _ in range(2):
            idle.append(await server.call(LIVEZ))
            assert (await idle[-1].reply()).status == 200
        third = await server.call(LIVEZ)
        assert (await third.reply()).status == 200
        assert await idle[0].rest() == b""
        await idle[1].send(LIVEZ)
        assert (await idle[1].reply()).status == 200


async def test_one_too_many_is_refused_but_may_ask_for_life() -> None:
    async with listening(max_connections=2) as server:
        inside = await busy(server, 2)
        refused = await (await server.call(PREDICT)).reply()
        assert (refused.status, refused.headers["connection"]) == (429, "close")
        assert int(refused.headers["retry-after"]) >= 1
        probe = await server.call(LIVEZ)
        assert (await probe.reply()).status == 200
        await probe.rest()
        server.application.worker.held = False
        server.application.worker.finish()
        assert [(await caller.reply()).status for caller in inside] == [200, 200]


async def test_of_far_too_many_the_silent_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.web.connection.RESERVE", 1)
    async with listening(max_connections=2) as server:
        await busy(server, 2)
        silent = await server.call()
        await until(lambda: server.connections == 3)
        probe = await server.call(LIVEZ)
        assert (await probe.reply()).status == 200
        reply = await silent.reply()
        assert (reply.status, reply.problem["code"]) == (429, "overloaded")
        assert ended(server, "crowded") == 1
        server.application.worker.finish()


async def test_probes_are_answered_when_a_thousand_are_silent() -> None:
    async with listening(max_connections=1000) as server:
        for _ in range(1100):
            await server.call()
        await until(lambda: server.connections > 900)
        began = asyncio.get_running_loop().time()
        for path in ("/livez", "/readyz"):
            assert (await (await server.call(head(path, "GET"))).reply()).status == 200
        assert asyncio.get_running_loop().time() - began < 20
        assert server.connections <= 1000 + RESERVE + 1
