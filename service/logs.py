"""How log lines look, in the front process and in the workers alike."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import MemoryHandler
from queue import Full, Queue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.settings import LogFormat, LogLevel

__all__ = ["JsonFormatter", "about", "configure", "kept_back", "request_id"]

# Whose request the current task, or the current picture of a worker, is about; "" for none.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# Libraries that write what is in pictures and bodies: tags at debug, every oddity of a form as a warning.
_TALKATIVE = ("PIL", "httpcore", "httpx", "python_multipart")

# Lines that wait to be written, at most, and for how long the end of the process waits for them.
_MAX_WAITING = 10_000
_LAST_WORDS_S = 1.0

_FIELDS = ("method", "route", "status", "duration_ms", "key", "trace_id")


@contextmanager
def about(request: str) -> Iterator[None]:
    """Have the lines that are written meanwhile carry the id of ``request``."""
    token = request_id.set(request)
    try:
        yield
    finally:
        request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    Of what a line carries besides its message, only the fields named above go out: a library would write whatever it
    finds, and one day that is a picture.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        if about := request_id.get():
            line["request_id"] = about
        line |= {name: value for name in _FIELDS if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _Writer(logging.Handler):
    """Hands lines to a thread that writes them: a pipe that nobody reads must not stop whoever has something to say.

    A line that finds no room is dropped, and the next one that finds some says how many were.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write_out = write
        self._lines: Queue[str] = Queue(_MAX_WAITING)
        self._dropped = 0
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line."""
        if self._dropped and not self._put(f"camserve.logs: {self._dropped} lines were dropped: nobody read them"):
            self._dropped += 1
            return
        self._dropped = 0
        if not self._put(self.format(record)):
            self._dropped = 1

    def flush(self) -> None:
        """Wait for what was said to be written, for a second at most."""
        until = time.monotonic() + _LAST_WORDS_S
        while self._lines.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.005)

    def _put(self, line: str) -> bool:
        try:
            self._lines.put_nowait(line)
        except Full:
            return False
        return True

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError):  # the disk is full, or nobody reads any more
                self._write_out(f"{line}\n")
            self._lines.task_done()


def _to_standard_error(text: str) -> None:
    # Not by sys.stderr, which would try again at the end of the process what it could not write.
    os.write(2, text.encode(errors="backslashreplace"))


@contextmanager
def kept_back() -> Iterator[None]:
    """Keep lines of the front that are written meanwhile, until the block has said how the log looks."""
    early = MemoryHandler(_MAX_WAITING, flushLevel=logging.CRITICAL + 1)
    logger = logging.getLogger("camserve")
    logger.addHandler(early)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = True
        logger.removeHandler(early)
    for record in early.buffer:
        logging.getLogger(record.name).handle(record)


def configure(level: LogLevel, log_format: LogFormat) -> None:
    """Send log lines to standard error."""
    handler = _Writer(_to_standard_error)
    handler.setFormatter(
        JsonFormatter() if log_format == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(log_format == "json")  # they are lines, too
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
