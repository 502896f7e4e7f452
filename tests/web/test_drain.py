"""The end of the service, seen from its clients: nobody who was let in is sent away, and nobody is let in too late."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import pytest

from tests.toys import png
from tests.web.application import until
from tests.web.sockets import LIVEZ, Listening, head, listening, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PICTURE = png()
PREDICT = request(PICTURE)
READYZ = head("/readyz", "GET")
PROBES = ("livez", "readyz", "metrics")


@pytest.fixture
async def server() -> AsyncIterator[Listening]:
    async with listening() as server:
        server.application.worker.held = True
        yield server
        server.application.worker.finish()


def terminate(server: Listening) -> None:
    server.server.handle_exit(signal.SIGTERM, None)


async def closed(server: Listening) -> None:
    await until(lambda: server.application.lifecycle.closed)


async def test_readiness_goes_at_once_and_work_stays(server: Listening) -> None:
    inside = await server.call(PREDICT)
    await until(lambda: server.application.worker.running)
    terminate(server)
    reply = await (await server.call(READYZ)).reply()
    assert (reply.status, reply.problem["status"]) == (503, "draining")
    assert int(reply.headers["retry-after"]) >= 1
    await closed(server)
    assert not server.ended.done()
    server.application.worker.finish()
    reply = await inside.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    await asyncio.wait_for(server.ended, 60)


async def test_new_work_is_refused_while_the_probes_are_answered(server: Listening) -> None:
    await server.call(PREDICT)
    await until(lambda: server.application.worker.running)
    terminate(server)
    await closed(server)
    refused = await (await server.call(PREDICT)).reply()
    assert (refused.status, refused.problem["code"], refused.headers["connection"]) == (503, "not_ready", "close")
    assert int(refused.headers["retry-after"]) >= 1
    statuses = [(await (await server.call(head(f"/{probe}", "GET"))).reply()).status for probe in PROBES]
    assert statuses == [200, 503, 200]


async def test_the_metrics_say_what_readyz_says(server: Listening) -> None:
    async def told() -> tuple[int, float]:
        status = (await (await server.call(READYZ)).reply()).status
        await (await server.call(head("/metrics", "GET"))).reply()
        return status, server.application.metric("camserve_ready")

    await server.call(PREDICT)  # so that it does not end at once
    await until(lambda: server.application.worker.running)
    assert await told() == (200, 1)
    terminate(server)
    assert await told() == (503, 0)
    await closed(server)
    assert await told() == (503, 0)


async def test_below_a_prefix_the_probes_are_answered_and_new_work_is_refused(server: Listening) -> None:
    server.server.config.root_path = "/cam"  # which is put before every path, as a proxy would leave it there
    await server.call(PREDICT)
    await until(lambda: server.application.worker.running)
    terminate(server)
    await closed(server)
    statuses = [(await (await server.call(head(f"/{probe}", "GET"))).reply()).status for probe in PROBES]
    assert statuses == [200, 503, 200]
    for data in (PREDICT, head("/api/v1/models", "GET"), head("/version", "GET")):
        reply = await (await server.call(data)).reply()
        assert (reply.status, reply.problem["code"]) == (503, "not_ready")


async def test_in_the_delay_work_is_still_taken_but_connections_are_not_kept() -> None:
    async with listening(drain_delay_s=4) as server:
        kept = await server.call(LIVEZ)
        assert "connection" not in (await kept.reply()).headers
        terminate(server)
        assert (await (await server.call(READYZ)).reply()).status == 503
        await kept.send(PREDICT)
        reply = await kept.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await kept.rest() == b""
        await closed(server)


async def test_who_came_before_may_finish_what_it_sends(server: Listening) -> None:
    server.application.worker.held = False
    slow = await server.call(PREDICT[:-10])
    await until(lambda: server.server.server_state.tasks)
    terminate(server)
    await closed(server)
    await slow.send(PREDICT[-10:])
    assert (await slow.reply()).status == 200
    await asyncio.wait_for(server.ended, 60)


async def test_a_request_just_arriving_on_a_kept_connection_is_answered(server: Listening) -> None:
    inside = await server.call(PREDICT)
    kept = await server.call(LIVEZ + READYZ[:10])
    await until(lambda: server.application.worker.running)
    assert (await kept.reply()).status == 200
    terminate(server)
    await closed(server)
    await kept.send(READYZ[10:])
    assert (await kept.reply()).status == 503
    server.application.worker.finish()
    assert (await inside.reply()).status == 200


async def test_an_idle_connection_does_not_hold_it_up(server: Listening) -> None:
    idle = await server.call(LIVEZ)
    await idle.reply()
    silent = await server.call()
    terminate(server)
    assert (await idle.rest(), await silent.rest()) == (b"", b"")
    await asyncio.wait_for(server.ended, 60)


async def test_a_large_upload_that_is_refused_hears_of_it(server: Listening) -> None:
    await server.call(PREDICT)
    await until(lambda: server.application.worker.running)
    terminate(server)
    await closed(server)
    upload = await server.call(head(content_type="image/png", content_length=20_000_000))
    upload.writer.write(bytes(20_000_000))  # does not look before it is done
    await upload.writer.drain()
    assert (await upload.reply()).status == 503


async def test_what_takes_too_long_is_cut_off_with_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with listening(drain_timeout_s=0.3) as server:
        server.application.worker.held = True
        inside = [await server.call(PREDICT) for _ in range(3)]
        await until(lambda: server.application.explainer.admission.inside == 3)
        upload = await server.call(PREDICT[:-10])
        await until(lambda: len(server.server.server_state.tasks) == 4)
        terminate(server)
        replies = [await caller.reply() for caller in inside]
        assert [(reply.status, reply.problem["code"]) for reply in replies] == 3 * [(503, "not_ready")]
        assert await upload.rest() == b""
        await asyncio.wait_for(server.ended, 60)
    told = [record.getMessage() for record in caplog.records if record.name == "camserve.lifecycle"]
    assert "4 requests are cut off after 0.3 s" in told
    assert not [record for record in caplog.records if record.exc_info], "one line for each event, no traceback"


async def test_a_signal_during_the_start_ends_it() -> None:
    async with listening() as server:
        server.server.started = False
        terminate(server)
        assert server.server.should_exit
        server.server.started = True
        await asyncio.wait_for(server.ended, 60)
