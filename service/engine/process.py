"""The front process's end of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from service.engine.messages import Cancel, pack, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.engine.jobs import Job
    from service.engine.messages import Lane, Message, Run, Start
    from service.metrics import Ending
    from service.models.info import ModelInfo

__all__ = ["WorkerProcess"]

log = logging.getLogger("camserve.pool")


def _command(descriptor: int) -> list[str]:
    """Start a worker that finds modules where this process does, and the user's own code in the working directory.

    ``python -m service.engine.worker`` would prefer any folder named "service" that happens to lie there.
    """
    folders = [entry or str(Path.cwd()) for entry in sys.path] + [str(Path.cwd())]
    code = f"import sys; sys.path[:] = {folders!r}; from service.engine.worker import main; main()"
    return [sys.executable, "-P", "-c", code, str(descriptor)]


class WorkerProcess:
    """A worker: started, spoken to, listened to, and buried.

    Attributes:
        start: what it was told to load.
        models: those that answer by now.
        failures: why other models cannot be loaded.
        running: batch number → its jobs, for batches sent and not yet answered.
        progress: batch number → how much of it is done, 0 to 1, where a slow batch has told.
        number: its place among the workers; a replacement takes over that of the worker it replaces.
        ended: how it ended, for the metrics; whoever kills it says why.
        device_bytes: memory of its device, ``allocated`` and ``reserved``, where it has told.
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
        self.progress: dict[int, float] = {}
        self.number = 0
        self.ended: Ending = "exited"
        self.device_bytes: dict[str, int] = {}
        self._on_message = on_message
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, once launched."""
        return self._process.pid if self._process else None

    def accepts(self, lane: Lane) -> bool:
        """Whether a batch of ``lane`` would be computed at once.

        Not if its model is busy: it would wait for the lock. A slow batch gives way to quick ones between its steps, so
        it runs beside them, in a place of its own, and they never wait for its end.
        """
        if lane.model not in self.models:
            return False
        rivals = [each for each in self._lanes() if each.slow == lane.slow]
        room = len(rivals) < (1 if lane.slow else self.start.concurrency)
        return room and all(each.model != lane.model for each in rivals)

    def _lanes(self) -> list[Lane]:
        return [jobs[0].lane for jobs in self.running.values()]

    async def launch(self) -> None:
        """Start the process; it loads its models while this returns."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *_command(theirs.fileno()),
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

    def give_up(self, job: Job) -> None:
        """Tell the worker to stop computing the batch of ``job``, if nobody waits for any of it any more."""
        for batch, jobs in self.running.items():
            if job in jobs and all(each.abandoned for each in jobs) and self._writer is not None:
                self._writer.write(pack(Cancel(batch)))

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
        if code < 0 and self.ended == "exited":
            self.ended = "signal"
        log.warning("worker %s on %s ended with code %s", self.pid, self.device, code)
        self._on_exit(self)
