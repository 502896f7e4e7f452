"""``camserve serve``: models over HTTP."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import service
from service.commands.flags import add_command, add_settings, drop_output, settings_of
from service.settings import reason_not_to_listen

if TYPE_CHECKING:
    import argparse

    from service.settings import Settings

__all__ = ["add"]

_SAMPLE = Path(service.__file__).parent / "demo" / "samples" / "03-star.png"


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    add_settings(add_command(commands, "serve", _serve, "serve models over HTTP"))


def _serve(options: argparse.Namespace) -> int:
    from service.web.server import serve  # noqa: PLC0415

    settings = settings_of(options)
    if reason := reason_not_to_listen(settings):
        print(f"camserve: {reason}", file=sys.stderr)
        return 2
    return serve(settings, lambda port: _announce(settings, port))


def _announce(settings: Settings, port: int) -> None:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104  # shown, not bound
    url = f"http://{host}:{port}"
    if settings.log_format == "json":
        logging.getLogger("camserve").info("camserve %s at %s", service.__version__, url)
        return
    try:
        print(_greeting(settings, url), flush=True)
    except OSError as error:  # a pipe that nobody reads, a disk that is full: no reason not to serve
        drop_output()
        logging.getLogger("camserve").warning("camserve is at %s; it could not be printed: %s", url, error.strerror)


def _greeting(settings: Settings, url: str) -> str:
    models = ", ".join(model.name for model in settings.models)
    return (
        f"\ncamserve {service.__version__} at {url} (page, API reference at {url}/docs), loading: {models}\n\n"
        f"Try it:\n"
        f"  curl -F image=@{_SAMPLE} -F output=regions {url}/api/v1/explain\n"
        f"  curl -F image=@{_SAMPLE} -H 'Accept: image/jpeg' -o overlay.jpg {url}/api/v1/explain\n"
    )
