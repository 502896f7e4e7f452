"""A worker in a process of its own: started, spoken to, listened to, watched.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from service.engine.messages import Cancel, Hello, Load, Ping, Pong, Ran, RunPlaced, Unload, pack, read
from service.engine.pixel_room import PixelRoom
from service.engine.watchdog import Watchdog
from service.engine.worker import WorkerSnapshot

if TYPE_CHECKING:
    from service.engine.messages import FromWorker, Message, Run
    from service.engine.worker import Listener, WorkerSpec
    from service.metrics import Ending
    from service.models.info import ModelKey
    from service.settings import ModelConfig

__all__ = ["WorkerProcess", "python_command", "words_for_exit"]

log = logging.getLogger("camserve.pool")

_LAST_MOMENTS_S = 1.0
_TICKS = 6


def python_command(module: str, *descriptors: int) -> list[str]:
    """Return what runs ``main`` of a module, which finds others where this process does, and the user's own code here.

    ``python -m service.engine.workers.main`` would prefer any folder named "service" that happens to lie there.
    """
    folders = [entry or str(Path.cwd()) for entry in sys.path] + [str(Path.cwd())]
    # A group of its own: Ctrl-C is for the front, which ends what it has started. Not a session: Linux shares the cores
    # between sessions first (autogroups), so that in one of its own a low priority would mean nothing.
    group = "os.getpgrp() == os.getpid() or os.setpgid(0, 0)"
    code = f"import os, sys; {group}; sys.path[:] = {folders!r}; from {module} import main; main()"
    return [sys.executable, "-P", "-c", code, *map(str, descriptors)]


async def _spawn() -> tuple[socket.socket, PixelRoom | None, asyncio.subprocess.Process]:
    """Start a process; return it, this end of the socket that joins the two, and the memory that both have."""
    ours, theirs = socket.socketpair()
    with theirs, PixelRoom.made() as made:
        room, *memory = made or (None,)
        descriptors = (theirs.fileno(), *memory)
        try:
            process = await asyncio.create_subprocess_exec(
                *python_command("service.engine.workers.main", *descriptors),
                pass_fds=descriptors,
                stdin=asyncio.subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            raise
        return ours, room, process


class WorkerProcess:
    """Implements the port :class:`service.engine.worker.Worker` with a process and a socket to it."""

    separate = True

    def __init__(self, spec: WorkerSpec, listener: Listener) -> None:
        self._spec = spec
        self._listener = listener
        self._snapshot = WorkerSnapshot(spec.number, spec.start.device)
        self._watchdog = Watchdog(_TICKS)
        self._ending: Ending = "exited"
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._room: PixelRoom | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def snapshot(self) -> WorkerSnapshot:
        """Its state now."""
        connected = self._writer is not None and not self._writer.is_closing()
        if connected != self._snapshot.connected:
            self._snapshot = replace(self._snapshot, connected=connected)
        return self._snapshot

    async def start(self) -> None:
        """Start the process and say where it computes.

        Raises:
            OSError: the machine has no process or no descriptor left.
        """
        try:
            ours, self._room, self._process = await _spawn()
        except OSError as error:
            self._snapshot = replace(self._snapshot, ending="not_started", last_exit=f"not started: {error}")
            raise
        self._snapshot = replace(self._snapshot, started=True, pid=self._process.pid)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._write(self._spec.start)
        self._tasks = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._watch())]

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        """Have it load a model."""
        self._write(Load(key, config))

    def unload(self, key: ModelKey) -> None:
        """Have it drop a model."""
        self._write(Unload(key))

    def send(self, run: Run) -> None:
        """Hand over a batch. If the process has died meanwhile, its listener notices."""
        self._watchdog.sent(run.batch)
        placed = self._room.put(run.batch, run.pixels) if self._room else None
        self._write(RunPlaced(replace(run, pixels=run.pixels[:0]), placed) if placed else run)

    def cancel(self, batch: int) -> None:
        """Tell it that nobody waits for a batch any more."""
        self._write(Cancel(batch))

    def kill(self, ending: Ending) -> None:
        """End the process at once; ``on_exit`` follows when it is gone."""
        self._ending = ending
        self._kill()

    async def stop(self, timeout_s: float) -> None:
        """Close the connection, which ends the process; kill it if that takes longer than ``timeout_s``."""
        if self._process is None or self._writer is None:
            return
        self._room = None
        for task in self._tasks:
            task.cancel()
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._kill()
            await self._process.wait()

    def _write(self, message: Message) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(pack(message))

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _watch(self) -> None:
        """Kill the process if it is silent, or computes a batch in silence, for too long. Loading may take its time."""
        limit_s = self._spec.silence_timeout_s
        while True:
            await asyncio.sleep(limit_s / _TICKS)
            if not self._snapshot.greeted:
                continue
            self._write(Ping())
            if what := self._watchdog.tick():
                log.error(
                    "worker %s on %s hangs: %s for %g s", self._snapshot.pid, self._snapshot.device, what, limit_s
                )
                self.kill("hung")

    # -- what it says, and its end ------------------------------------------------------------------------------------

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        assert self._process is not None
        assert self._writer is not None
        try:
            while True:
                self._hear(await read(reader))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception:
            log.exception("worker %s sent something that cannot be handled; it is replaced", self._snapshot.pid)
        self._writer.close()
        # Killing a process that has just ended would lose its exit code: subprocess looks first whether it lives, and
        # thereby takes the code away from asyncio.
        try:
            code = await asyncio.wait_for(self._process.wait(), _LAST_MOMENTS_S)
        except TimeoutError:
            self._kill()
            code = await self._process.wait()
        self._end(code)

    def _hear(self, message: FromWorker) -> None:
        self._watchdog.heard(message)
        match message:
            case Hello(device, _):
                self._snapshot = replace(self._snapshot, greeted=True, device=device)
            case Pong(device_bytes):
                self._snapshot = replace(self._snapshot, device_bytes=device_bytes)
            case Ran(batch) if self._room:
                self._room.free(batch)
        self._listener.on_message(self, message)

    def _end(self, code: int) -> None:
        self._room = None  # some hold on to a worker that has ended
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        if code < 0 and self._ending == "exited":
            self._ending = "signal"
        words = _ENDS.get(self._ending) or words_for_exit(code)
        self._snapshot = replace(self._snapshot, ending=self._ending, last_exit=words)
        log.warning("worker %s on %s ended: %s", self._snapshot.pid, self._snapshot.device, words)
        self._listener.on_exit(self)


_ENDS: dict[Ending, str] = {"hung": "it hung", "start_timeout": "it loaded nothing in time"}


def words_for_exit(code: int) -> str:
    """Say how a process ended, by its exit code, which is negative for a signal."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
