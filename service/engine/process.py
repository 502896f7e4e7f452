"""The front process's end of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from typing import TYPE_CHECKING, Any

from service.engine.messages import Run, Start, pack, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.engine.jobs import Job
    from service.engine.messages import Message
    from service.models.info import ModelInfo

__all__ = ["WorkerProcess"]

log = logging.getLogger("camserve.pool")


class WorkerProcess:
    """A worker: started, spoken to, listened to, and buried.

    Attributes:
        start: what it was told to load.
        models: those that answer by now.
        failures: why other models cannot be loaded.
        running: batch number → its jobs, for batches sent and not yet answered.
    """

    def __init__(
        self,
        start: Start,
        on_message: Callable[[WorkerProcess, Message], None],
        on_exit: Callable[[WorkerProcess], None],
    ) -> None:
        self.start = start
        self.device = start.device
        self.models: dict[str, ModelInfo] = {}
        self.failures: dict[str, str] = {}
        self.running: dict[int, list[Job]] = {}
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, once launched."""
        return self._process.pid if self._process else None

    @property
    def busy_models(self) -> set[str]:
        """Models that compute a batch now: another batch of theirs would only wait for the lock."""
        return {jobs[0].lane.model for jobs in self.running.values()}

    def accepts(self, lane: Any) -> bool:
        """Whether a batch of ``lane`` would be computed at once."""
        room = len(self.running) < self.start.concurrency
        return room and lane.model in self.models and lane.model not in self.busy_models

    async def launch(self) -> None:
        """Start the process; it loads its models while this returns."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service.engine.worker",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._listener = asyncio.create_task(self._listen(reader))
        self._writer.write(pack(self.start))

    def send(self, run: Run, jobs: list[Job]) -> None:
        """Hand over a batch. A worker that died meanwhile is noticed by its listener, which gives the jobs back."""
        assert self._writer is not None
        self.running[run.batch] = jobs
        self._writer.write(pack(run))

    async def stop(self, timeout_s: float) -> None:
        """Close the connection, which ends the worker; kill it if it takes longer than ``timeout_s``."""
        if self._process is None or self._writer is None or self._listener is None:
            return
        self._listener.cancel()
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        assert self._process is not None
        assert self._writer is not None
        try:
            while True:
                self._on_message(self, await read(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            log.exception("worker %s sent something that cannot be handled; it is replaced", self.pid)
        self._writer.close()
        self.kill()
        code = await self._process.wait()
        log.warning("worker %s on %s ended with code %s", self.pid, self.device, code)
        self._on_exit(self)
