"""More connections than there may be, over real sockets: probes are answered whoever holds the others."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.web.application import until
from tests.web.sockets import LIVEZ, head, listening
from tests.web.test_connections import PREDICT, busy, ended

if TYPE_CHECKING:
    from tests.web.sockets import Caller, Listening

READYZ = head("/readyz", "GET")


async def alive(server: Listening) -> None:
    """A probe on a connection of its own is answered, as a supervisor that is not there at the next moment asks."""
    async with asyncio.timeout(20):
        for probe in (LIVEZ, READYZ):
            caller = await server.call(probe)
            assert (await caller.reply()).status == 200
            caller.close()


async def silent(server: Listening, count: int, said: bytes = b"") -> list[Caller]:
    return [await server.call(said) for _ in range(count)]


@pytest.mark.parametrize("said", [b"", b"GET /li", b"\r\n", LIVEZ], ids=["silent", "half a head", "blank", "idle"])
async def test_probes_are_answered_with_1100_connections_that_say_nothing(said: bytes) -> None:
    async with listening() as server:
        await silent(server, 1100, said)
        for _ in range(20):
            await alive(server)
        assert server.connections <= 1000 + 32


async def test_requests_are_answered_too() -> None:
    async with listening(max_connections=20) as server:
        await silent(server, 100)
        await asyncio.sleep(3)  # by then their heads are late
        caller = await server.call(PREDICT)
        assert (await caller.reply()).status == 200


async def test_probes_are_answered_while_silent_connections_keep_coming() -> None:
    async with listening(max_connections=20) as server:
        enough = asyncio.Event()

        async def flood() -> None:
            while not enough.is_set():
                await server.call(b"GET /")

        flooding = asyncio.create_task(flood())
        await until(lambda: server.connections > 40)
        for _ in range(10):
            await alive(server)
        enough.set()
        await flooding


async def test_who_has_just_come_is_not_taken_for_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reserve is for them: beyond it the one that has waited longest goes, with an answer."""
    monkeypatch.setattr("service.web.connection._QUICK_S", 60.0)
    async with listening(max_connections=1) as server:
        await busy(server, 1)
        waiting = await silent(server, 32)
        await until(lambda: server.connections == 33)
        assert ended(server, "crowded") == 0
        latest = await server.call()
        reply = await waiting[0].reply()
        assert (reply.status, reply.problem["code"], reply.headers["connection"]) == (429, "overloaded", "close")
        for caller in (waiting[1], latest):
            await caller.send(LIVEZ)
            assert (await caller.reply()).status == 200
        assert ended(server, "crowded") == 1
        monkeypatch.undo()
        await waiting[2].rest()  # the reserve is for the quick
        server.application.worker.finish()


async def test_who_is_answered_is_never_taken_for_silent() -> None:
    async with listening(max_connections=2) as server:
        inside = await busy(server, 2)
        await inside[0].send(b"GET /ver")  # the next request begins before this one has its answer
        await silent(server, 100)
        await alive(server)
        server.application.worker.held = False
        server.application.worker.finish()
        assert [(await caller.reply()).status for caller in inside] == [200, 200]


async def test_bodies_that_nobody_reads_do_not_hold_the_reserve() -> None:
    async with listening(max_connections=1) as server:
        await busy(server, 1)
        lingering = await silent(server, 32, head(content_type="image/png", content_length=1_000_000))
        assert [(await caller.reply()).status for caller in lingering] == [429] * 32
        await until(lambda: server.connections == 1, 8)  # an ordinary one may go on sending for thirty seconds
        await alive(server)
        server.application.worker.finish()
