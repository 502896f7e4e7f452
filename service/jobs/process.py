"""A process that is told something, and heard line by line until it ends.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.engine.worker_process import python_command

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

__all__ = ["StoodStill", "run"]

_MOST_BYTES = 8 << 20  # of a line
_STILL_S = 600.0  # a process that used no core for so long waits for what never comes; a step takes seconds
_LAST_WORDS_S = 1.0  # others that it has left running may hold on to its end of the pipe


class StoodStill(Exception):
    """A process used no core for so long that it was killed."""

    def __init__(self) -> None:
        super().__init__(f"used no core for {_STILL_S / 60:g} minutes")


async def run(module: str, said: bytes, hear: Callable[[dict[str, Any]], None]) -> int:
    """Run ``main`` of a module in a new process, which is killed with all that it started when this is cancelled.

    Args:
        module: whose ``main`` reads standard input, and writes lines of JSON to
            the descriptor that it is given.
        said: what standard input is.
        hear: told each object that comes.

    Returns:
        The exit code, negative for a signal.

    Raises:
        OSError: the machine has no process or no descriptor left.
        StoodStill: it waited for ever, and was killed.
    """
    reading, writing = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *python_command(module, writing), stdin=asyncio.subprocess.PIPE, pass_fds=(writing,)
        )
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    try:
        async with _lines(reading) as lines:
            return await _unless_still(process.pid, _heard(process, said, lines, hear))
    finally:
        await asyncio.shield(_ended(process))


async def _unless_still(pid: int, hearing: Coroutine[Any, Any, int]) -> int:
    """Hear a process as long as it computes at all, however little the machine leaves it.

    Raises:
        StoodStill: it does not.
    """
    task = asyncio.ensure_future(hearing)
    try:
        before = None
        while not (await asyncio.wait({task}, timeout=_STILL_S))[0]:
            ticks = _ticks(pid)
            if ticks is not None and ticks == before:
                raise StoodStill
            before = ticks
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _ticks(pid: int) -> tuple[bytes, ...] | None:
    """Return what a process and its children have had of the cores; None where the system does not tell."""
    try:
        return tuple(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[11:15])
    except OSError:
        return None


@contextlib.asynccontextmanager
async def _lines(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    lines = asyncio.StreamReader(_MOST_BYTES)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        yield lines
    finally:
        transport.close()


async def _heard(
    process: asyncio.subprocess.Process,
    said: bytes,
    lines: asyncio.StreamReader,
    hear: Callable[[dict[str, Any]], None],
) -> int:
    hearing = asyncio.ensure_future(_hear(lines, hear))
    try:
        assert process.stdin is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(said)
            await process.stdin.drain()
        process.stdin.close()
        code = await process.wait()
        await asyncio.wait({hearing}, timeout=_LAST_WORDS_S)
        return code
    finally:
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


async def _hear(lines: asyncio.StreamReader, hear: Callable[[dict[str, Any]], None]) -> None:
    while not lines.at_eof():
        with contextlib.suppress(ValueError):  # a model's code has written into what it did not open
            message = json.loads(await lines.readline())
            if isinstance(message, dict):
                hear(message)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End it, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it is gone, or leads no group yet
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
