"""What the page asks of the API, seen on its way."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import service.demo

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page, Request, Route

SAMPLES = Path(service.demo.__file__).parent / "samples"

_FIELD = re.compile(
    rb'name="([^"]+)"(; filename="([^"]*)")?\r\n(?:Content-Type: [^\r]*\r\n)?\r\n(.*?)\r\n--', re.DOTALL
)
_PATIENCE_S = 30


class Asked:
    """Every ``explain`` request of a page.

    Attributes:
        forms: the options of each, by name; the names of its pictures under ``image``.
        hold: whether requests wait for :meth:`release` before they go on to the server.
    """

    def __init__(self, page: Page, *, hold: bool = False) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.hold = hold
        self._page = page
        self._held: list[Route] = []
        page.route(re.compile(r"/explain$"), self._see)

    def _see(self, route: Route) -> None:
        self.forms.append(form_of(route.request))
        if self.hold:
            self._held.append(route)
        else:
            route.continue_()

    def release(self) -> None:
        """Let everything go on that waits."""
        self.wait_for(lambda _: True)
        self.hold = False
        for route in self._held:
            route.continue_()
        self._held.clear()

    def wait_for(self, condition: Callable[[dict[str, list[str]]], bool]) -> None:
        """Wait until a request has been made that ``condition`` holds for."""
        deadline = time.monotonic() + _PATIENCE_S
        while not any(condition(form) for form in self.forms):
            assert time.monotonic() < deadline, self.forms
            self._page.wait_for_timeout(10)


class HeldModels:
    """The server's list of models, which a page waits for from now on, until :meth:`release`.

    Attributes:
        routes: what waits.
    """

    def __init__(self, page: Page) -> None:
        self.routes: list[Route] = []
        self._hold = True
        page.route("**/api/v1/models", self._see)

    def _see(self, route: Route) -> None:
        if self._hold:
            self.routes.append(route)
        else:
            route.continue_()

    def release(self) -> None:
        """Let it come."""
        self._hold = False
        for route in self.routes:
            route.continue_()


def form_of(request: Request) -> dict[str, list[str]]:
    """Return the fields of a request by name; the names of its pictures under ``image``."""
    form: dict[str, list[str]] = {}
    for name, _, filename, value in _FIELD.findall(request.post_data_buffer or b""):
        form.setdefault(name.decode(), []).append((filename or value).decode())
    return form
