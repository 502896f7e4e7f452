"""Pages of other origins than the service's."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Elsewhere:
    """Two origins that serve one folder: a tool that the service allows to embed it, and one that it does not."""

    folder: Path
    tool: str
    stranger: str


@contextmanager
def two_sites(folder: Path) -> Iterator[Elsewhere]:
    """Serve a folder at both."""
    with _site(folder) as tool, _site(folder) as stranger:
        yield Elsewhere(folder, tool, stranger)


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        """Allow any page to read the pictures, as a store of pictures would."""
        if self.path.endswith(".png"):
            self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _site(folder: Path) -> Iterator[str]:
    """Serve a folder on a port, and so an origin, of its own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
