"""The service drains under hosts other than its own server: uvicorn as it is, and whatever speaks ASGI's lifespan."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from service.settings import ModelConfig, Settings
from service.web.app import create_app
from tests.toys import png
from tests.web.application import HOSTS, AnsweringWorker, Application, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import FastAPI
    from starlette.types import Message

PREDICT = "/api/v1/predict"
PICTURE: dict[str, Any] = {"content": png(), "headers": {"Content-Type": "image/png"}}


def make_app(**settings: Any) -> FastAPI:
    pets = (ModelConfig(name="pets", architecture="shapes"),)
    return create_app(Settings(models=pets, decode_threads=2, allowed_hosts=HOSTS, **settings), launch=AnsweringWorker)


class Lifespan:
    """A host that speaks ASGI's lifespan protocol by hand and nothing else."""

    def __init__(self, app: FastAPI) -> None:
        self.state: dict[str, Any] = {}
        self.sent: list[str] = []
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self.state}
        self._task = asyncio.ensure_future(app(scope, self._messages.get, self._send))

    async def _send(self, message: Message) -> None:
        self.sent.append(message["type"])

    async def say(self, event: str) -> None:
        """Send an event and wait until it is complete."""
        self._messages.put_nowait({"type": f"lifespan.{event}"})
        await until(lambda: f"lifespan.{event}.complete" in self.sent)


@asynccontextmanager
async def uvicorn_alone(app: FastAPI) -> AsyncIterator[tuple[uvicorn.Server, asyncio.Task[None], str]]:
    """uvicorn's own server with its own connections: the server, its end, and its address."""
    config = uvicorn.Config(app, port=0, log_config=None, log_level="error", timeout_keep_alive=1)
    server = uvicorn.Server(config)
    ended = asyncio.create_task(server._serve())  # serve() would take this process's signals
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, ended, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await asyncio.wait_for(ended, 60)


async def hold(application: Application, client: httpx.AsyncClient) -> asyncio.Task[httpx.Response]:
    """Send a request that stays with the worker."""
    await application.explainer.settled()
    application.worker.held = True
    inside = asyncio.create_task(client.post(PREDICT, **PICTURE))
    await until(lambda: application.worker.running)
    return inside


async def check_that_it_drains(application: Application, client: httpx.AsyncClient) -> None:
    await until(lambda: application.lifecycle.closed)
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (await client.get("/livez")).status_code == 200
    refused = await client.post(PREDICT, **PICTURE)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert not application.worker.stopped


async def test_the_end_of_the_lifespan_waits_for_requests_and_refuses_new_ones() -> None:
    app = make_app(drain_delay_s=600)  # for our own server: a host that ends the lifespan sends nothing any more
    host = Lifespan(app)
    await host.say("startup")
    application = Application(app, host.state)
    async with application.client() as client:
        inside = await hold(application, client)
        worker = application.worker
        shutdown = asyncio.create_task(host.say("shutdown"))
        await check_that_it_drains(application, client)
        assert not shutdown.done()
        worker.finish()
        assert (await inside).status_code == 200
    await shutdown
    assert worker.stopped
    assert application.lifecycle.over


async def test_requests_that_outlast_the_lifespan_are_refused() -> None:
    app = make_app(drain_timeout_s=0.05)
    host = Lifespan(app)
    await host.say("startup")
    application = Application(app, host.state)
    async with application.client() as client:
        inside = await hold(application, client)
        worker = application.worker
        await host.say("shutdown")
        response = await inside
    assert (response.status_code, response.json()["code"]) == (503, "not_ready")
    assert worker.stopped


async def test_a_host_can_drain_before_it_ends_the_lifespan() -> None:
    app = make_app()
    async with uvicorn_alone(app) as (server, ended, address), httpx.AsyncClient(base_url=address) as client:
        application = Application(app, server.lifespan.state)
        inside = await hold(application, client)
        worker = application.worker
        drained = asyncio.create_task(app.state.lifecycle.drain())
        await check_that_it_drains(application, client)
        assert not drained.done()
        worker.finish()
        assert (await inside).status_code == 200
        await drained
        server.should_exit = True
        await asyncio.wait_for(ended, 60)
        assert worker.stopped


async def test_uvicorn_alone_finishes_what_is_inside_and_ends_the_workers() -> None:
    app = make_app()
    async with uvicorn_alone(app) as (server, ended, address), httpx.AsyncClient(base_url=address) as client:
        application = Application(app, server.lifespan.state)
        inside = await hold(application, client)
        worker = application.worker
        server.should_exit = True
        await until(lambda: not server.servers[0].is_serving())
        assert not ended.done()
        worker.finish()
        assert (await inside).status_code == 200
        await asyncio.wait_for(ended, 60)
        assert worker.stopped
        assert application.lifecycle.over
