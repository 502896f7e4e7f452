"""How log lines look, in the front process and in the workers alike."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import LogFormat, LogLevel

__all__ = ["JsonFormatter", "about", "configure", "request_id"]

# Whose request the current task, or the current picture of a worker, is about; "" for none.
request_id: ContextVar[str] = ContextVar("request_id", default="")

# Libraries that write what is in pictures and bodies: tags at debug, every oddity of a form as a warning.
_TALKATIVE = ("PIL", "python_multipart")

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


def configure(level: LogLevel, log_format: LogFormat) -> None:
    """Send log lines to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter() if log_format == "json" else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(log_format == "json")  # they are lines, too
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
