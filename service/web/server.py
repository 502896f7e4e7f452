"""The HTTP server: uvicorn, with connections that cannot be held for ever and an orderly end.

The first SIGTERM or SIGINT starts the shutdown, a second one ends the process at once. The shutdown follows the states
of :class:`service.engine.lifecycle.Lifecycle`:

1. Draining: ``/readyz`` says so, and connections are no longer kept. Requests are still taken for ``drain_delay_s``.
2. Closed: new requests are refused with 503. Those inside are finished, for ``drain_timeout_s`` at most. Probes are
   answered.
3. Over: the workers end, and requests without an answer get 503. The process ends with exit code 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import threading
import time
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import uvicorn

from service.errors import ServiceError
from service.web.app import create_app
from service.web.connection import RESERVE, Connection
from service.web.waiting import Waiting

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from types import FrameType

    from fastapi import FastAPI

    from service.engine.lifecycle import Lifecycle
    from service.metrics import Metrics
    from service.settings import Settings

__all__ = ["Server", "serve"]

log = logging.getLogger("camserve.server")

# After the workers' end: time for the refusals to be written, and for tasks to notice that their connection is gone.
_LAST_WORDS_S, _GIVE_UP_S = 1.0, 1.0
# From the end of draining: as much as the workers' end and all of the above may take.
_END_S = 8.0
_TICK_S = 0.1
# New objects between two collections: some requests' worth, hardly any of which is garbage in cycles.
_GARBAGE = 10_000
# Files besides connections: libraries, the log, what listens; a worker's two ends, and what starting another one takes.
# And the fewest connections that help.
_OTHER_FILES, _FILES_PER_WORKER, _FEWEST = 64, 12, 16


def serve(settings: Settings, greet: Callable[[int], None]) -> int:
    """Serve until told to stop; return the exit code.

    Args:
        settings: all of them.
        greet: called with the port once there is one.

    Raises:
        ServiceError: it cannot start; the message says why.
    """
    settings = _with_room_for_connections(settings, _allow_open_files())
    # uvicorn warns of requests that it cannot parse; Connection logs these itself, with a request id.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

    def ready(port: int) -> None:
        gc.freeze()  # what is there now stays: full collections would stop the loop for a tenth of a second each
        gc.set_threshold(_GARBAGE)
        greet(port)

    app = create_app(settings)
    server = Server(app, settings, ready)
    server.when_over = _end_for_certain
    with _refusal_in_words(app):
        server.run()
    return 0 if server.started else 1


@contextlib.contextmanager
def _refusal_in_words(app: FastAPI) -> Iterator[None]:
    """Raise what a start was refused for in place of what uvicorn makes of it, a traceback in the log and an exit code.

    Raises:
        ServiceError: that.
    """

    def wanted(_record: logging.LogRecord) -> bool:
        return app.state.refused is None

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(wanted)
    try:
        yield
    except SystemExit:
        if app.state.refused is None:
            raise
        raise app.state.refused from None
    finally:
        logger.removeFilter(wanted)


def _end_for_certain() -> None:
    """End the process if it does not end by itself: an executor's threads are waited for, however long they take."""
    last_resort = threading.Timer(_END_S, os._exit, (0,))
    last_resort.daemon = True
    last_resort.start()


def _allow_open_files() -> int:
    """Raise the soft limit of open files to the hard one, and return what it is then.

    The soft one, often 1024, is there for select().
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.debug("open files: %d, was %d", allowed, soft)
    return allowed


def _with_room_for_connections(settings: Settings, files: int) -> Settings:
    """Allow fewer connections where there are not files enough for all: without one, no worker can be replaced.

    Raises:
        ServiceError: there are hardly any.
    """
    most = (
        inf
        if files == resource.RLIM_INFINITY
        else files - RESERVE - _OTHER_FILES - _FILES_PER_WORKER * settings.workers
    )
    if settings.max_connections <= most:
        return settings
    if most < _FEWEST:
        raise ServiceError(
            f"This process may open {files} files, which leaves no room for connections. Raise the limit: ulimit -n."
        )
    log.warning(
        "max_connections is %d, but this process may open %d files only: %d connections are allowed (ulimit -n)",
        settings.max_connections,
        files,
        most,
    )
    return settings.model_copy(update={"max_connections": most})


class Server(uvicorn.Server):
    """uvicorn's server, which also drains before it ends and closes connections that are too slow.

    Attributes:
        when_over: called when it begins to end.
    """

    when_over: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self, app: FastAPI, settings: Settings, greet: Callable[[int], None]) -> None:
        config = uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            http=partial(Connection, waiting=Waiting()),  # type: ignore[arg-type]  # uvicorn calls it, whatever it is
            ws="none",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_keep_alive=settings.keep_alive_s,
        )
        super().__init__(config)
        self._settings = settings
        self._greet = greet

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if self.started:
            self._lifecycle: Lifecycle = self.lifespan.state["lifecycle"]
            self._lifecycle.when_closed(self._let_connections_go)
            self._metrics: Metrics = self.lifespan.state["metrics"]
            self._greet(self.servers[0].sockets[0].getsockname()[1])

    async def on_tick(self, counter: int) -> bool:
        """Watch over the connections, about twice a second."""
        if counter % 5 == 0:
            self._metrics.connections.set(len(self.server_state.connections))
            for connection in self._connections():
                connection.check()
        return await super().on_tick(counter)

    async def main_loop(self) -> None:
        """Serve until told to stop, and until what is inside is done."""
        await super().main_loop()
        await self._drain()

    async def _drain(self) -> None:
        """Drain, and wait until answers are taken; connections are watched meanwhile."""
        drained = asyncio.create_task(self._lifecycle.drain())
        await self._serve_while(lambda: not self._lifecycle.closed)
        await self._serve_while(lambda: not drained.done() or self._busy(), self._settings.drain_timeout_s)
        await drained

    def _let_connections_go(self) -> None:
        for connection in self._connections():
            connection.shutdown()  # idle ones now, the others after their answer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the workers, then what is left: requests without an answer get one, and connections are closed."""
        del sockets
        self.when_over()
        for server in self.servers:
            server.close()
        await self.lifespan.shutdown()
        await self._serve_while(self._busy, _LAST_WORDS_S)
        for connection in self._connections():
            connection.transport.abort()
        await self._serve_while(lambda: bool(self.server_state.tasks), _GIVE_UP_S)

    async def _serve_while(self, condition: Callable[[], bool], at_most_s: float = inf) -> None:
        end = time.monotonic() + at_most_s
        while condition() and time.monotonic() < end:
            await self.on_tick(0)
            await asyncio.sleep(min(_TICK_S, max(0.0, end - time.monotonic())))

    def _busy(self) -> bool:
        """Whether a request is being answered, or an answer not yet taken."""
        unsent = any(connection.transport.get_write_buffer_size() for connection in self._connections())
        return unsent or bool(self.server_state.tasks)

    def _connections(self) -> list[Connection]:
        return [each for each in self.server_state.connections if isinstance(each, Connection)]

    # -- signals ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals as uvicorn does, but do not raise them again: an orderly end would look like a death."""
        originals = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, original in originals.items():
                signal.signal(number, original)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown at the first signal; end the process at the second, which the workers notice."""
        del frame
        if self.should_exit:
            os.write(2, b"camserve: told to stop a second time, ending at once\n")
            os._exit(128 + sig)
        self.should_exit = True
        if self.started:
            self._lifecycle.begin_drain()
