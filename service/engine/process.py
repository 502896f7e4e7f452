"""The front process's end of one worker process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from service.engine.messages import Cancel, Hello, Ping, Pong, Progress, Ran, pack, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.engine.jobs import Job
    from service.engine.messages import Lane, Message, Run, Start
    from service.metrics import Ending
    from service.models.info import ModelInfo

__all__ = ["WorkerProcess", "WorkerState"]

# Not started yet, no model yet, some model, or none that can be loaded.
WorkerState = Literal["waiting", "loading", "ready", "failed"]

log = logging.getLogger("camserve.pool")

_LAST_MOMENTS_S = 1.0


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
        greeted: whether the process has said hello.
        useful: whether it has answered a batch.
        deaths: how many before it in its place died in a row without having been of use.
        last_exit: how the one before it, or it itself once it is dead, ended: ``exited with code 70``, ``it hung`` …
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
        self.greeted = False
        self.useful = False
        self.deaths = 0
        self.last_exit: str | None = None
        # Ticks of the watchdog since something was heard: of the worker at all, and of each of its batches.
        self._silence = 0
        self._silences: dict[int, int] = {}
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

    @property
    def state(self) -> WorkerState:
        """How far it is."""
        if self.models:
            return "ready"
        if self.pid is None:
            return "waiting"
        return "loading" if self.missing() else "failed"

    def missing(self) -> list[str]:
        """Return the models that it has neither loaded nor failed to load, in the order of loading."""
        names = [config.name for config in self.start.models]
        return [name for name in names if name not in self.models and name not in self.failures]

    def accepts(self, lane: Lane) -> bool:
        """Whether a batch of ``lane`` would be computed at once.

        Not if its model is busy: it would wait for the lock. A slow batch gives way to quick ones between its steps, so
        it runs beside them, in a place of its own, and they never wait for its end.
        """
        if lane.model not in self.models or not self.connected:
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
        self._write(self.start)

    @property
    def connected(self) -> bool:
        """Whether messages reach it; for a moment before its burial they do not."""
        return self._writer is not None and not self._writer.is_closing()

    def _write(self, message: Message) -> None:
        """Send, unless the worker is gone; its listener then has it buried, and its jobs given back."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(message))

    def send(self, run: Run, jobs: list[Job]) -> None:
        """Hand over a batch. A worker that died meanwhile is noticed by its listener, which gives the jobs back."""
        self.running[run.batch] = jobs
        self._write(run)

    def give_up(self, job: Job) -> None:
        """Tell the worker to stop computing the batch of ``job``, if nobody waits for any of it any more."""
        for batch, jobs in self.running.items():
            if job in jobs and all(each.abandoned for each in jobs):
                self._write(Cancel(batch))

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

    def tick(self, patience: int) -> str | None:
        """Count one tick of the watchdog and ask for a sign of life.

        Returns:
            What has been silent for more than ``patience`` ticks; None if nothing was.
        """
        if not self.greeted or not self.connected:
            return None
        self._silence += 1
        self._silences = {batch: self._silences.get(batch, 0) + 1 for batch in self.running}
        self._write(Ping())
        if self._silence > patience:
            return "no sign of life"
        return "no end of a batch" if max(self._silences.values(), default=0) > patience else None

    def heard(self, message: Message) -> None:
        """Take note of a sign of life."""
        self._silence = 0
        match message:
            case Hello():
                self.greeted = True
            case Pong(device_bytes):
                self.device_bytes = device_bytes
            case Progress(batch, _fraction):
                self._silences.pop(batch, None)
            case Ran():
                self.useful = True

    def kill(self, reason: Ending | None = None) -> None:
        """End the process at once, for a ``reason`` that its burial will name."""
        self.ended = reason or self.ended
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
        # Killing a process that has just ended would lose its exit code: subprocess looks first whether it lives, and
        # thereby takes the code away from asyncio.
        try:
            code = await asyncio.wait_for(self._process.wait(), _LAST_MOMENTS_S)
        except TimeoutError:
            self.kill()
            code = await self._process.wait()
        if code < 0 and self.ended == "exited":
            self.ended = "signal"
        self.last_exit = _ENDS.get(self.ended) or _end(code)
        log.warning("worker %s on %s ended: %s", self.pid, self.device, self.last_exit)
        self._on_exit(self)


_ENDS: dict[Ending, str] = {"hung": "it hung", "start_timeout": "it loaded nothing in time"}


def _end(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
