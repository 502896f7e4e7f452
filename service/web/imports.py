"""What answers the requests of a protocol is imported behind the start, in a thread, while workers load their models.

Imported before, it would make the start longer; imported by the first request, it would stop the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.protocols import WireProtocol

__all__ = ["Imports"]

log = logging.getLogger("camserve.imports")


class Imports:
    """The imports of all protocols that are spoken. Lives in one event loop from one start to the next.

    Args:
        rows: the protocols; those that have modules to import are imported in this order.
    """

    def __init__(self, rows: Sequence[WireProtocol]) -> None:
        self._rows = [row for row in rows if row.modules]
        self._there: dict[int, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, and return."""
        self._there = {id(row): asyncio.Event() for row in self._rows}
        self._task = asyncio.create_task(self._import_all())

    async def there(self, row: WireProtocol | None) -> None:
        """Wait until what answers the requests of ``row`` is there; None needs nothing."""
        if (event := self._there.get(id(row))) is not None:
            await event.wait()

    async def stop(self) -> None:
        """Let what is not yet imported be."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _import_all(self) -> None:
        for row in self._rows:
            await asyncio.to_thread(_import, row)
            self._there[id(row)].set()


def _import(row: WireProtocol) -> None:
    try:
        for module in row.modules:
            import_module(module)
        row.openapi_part  # noqa: B018  # imports it
    except Exception:
        log.exception("what answers %s cannot be imported; the installation is damaged", row.name)
