"""The worker process, from its first to its last moment.

It hears from the front process over the socket that it inherits, and ends when that closes.

Runs in the worker process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from service import logs
from service.engine.messages import RunPlaced, Start, pack, receive
from service.engine.pixel_room import PixelRoom
from service.engine.workers.ending import die_with_the_front
from service.engine.workers.waiting import short_waits

if TYPE_CHECKING:
    from service.engine.messages import Message

__all__ = ["main", "serve"]


def main() -> None:
    """Take over the inherited socket and serve."""
    # Ctrl-C reaches the whole process group; the front process decides when workers end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    die_with_the_front()
    descriptor, *memory = map(int, sys.argv[1:])
    room = PixelRoom(*memory) if memory else None
    for inherited in memory:
        os.close(inherited)
    serve(socket.socket(fileno=descriptor), room)


def serve(connection: socket.socket, room: PixelRoom | None = None) -> None:
    """Do what messages ask for, until the front process goes away; then this process ends.

    Args:
        connection: to the front process.
        room: where it puts pixels, if there is one.
    """
    sending = threading.Lock()

    def tell(message: Message) -> None:
        try:
            with sending:
                connection.sendall(pack(message))
        except OSError:
            os._exit(0)  # the front process is gone

    with connection.makefile("rb") as stream:
        start = receive(stream)
        if not isinstance(start, Start):
            return
        logs.configure(start.log_level, start.log_format)
        if start.expendable:
            _stand_back()
        with short_waits():
            from service.engine.workers.executor import Executor  # noqa: PLC0415

        executor = Executor(start, tell, os._exit)
        while (message := receive(stream)) is not None:
            if isinstance(message, RunPlaced):
                assert room is not None
                message = replace(message.run, pixels=room.at(message.placed))
            executor.hear(message)
    os._exit(0)  # nobody is left to hear of a batch that still computes


def _stand_back() -> None:
    """Let others have the cores first, and the memory: where the system must kill somebody for it, it is this one."""
    os.nice(5)
    with suppress(OSError):  # of other systems than Linux, or where /proc is read-only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
