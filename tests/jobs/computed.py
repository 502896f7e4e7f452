"""Evaluations whose processes are held by hand: nothing is computed."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from service.jobs.files import REPORT, RESULT
from service.jobs.looking import told
from service.jobs.material import Look
from service.jobs.order import Order

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

RESULTS = {"images": 1, "rows": [], "recommendations": [], "warnings": [], "baselines": []}


class Held:
    """Stands in the place of ``service.jobs.process.run``: what is sent is looked at here, and nothing is computed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.orders: list[Order] = []
        self.ended: list[str] = []
        self._news = asyncio.Event()
        self._hear: Callable[[dict[str, Any]], None] | None = None
        self._end: asyncio.Future[int] | None = None
        patch.setattr("service.jobs.computing.run", self._run)
        patch.setattr("service.jobs.sent.run", self._look)

    async def _look(self, _module: str, said: bytes, hear: Callable[[dict[str, Any]], None]) -> int:
        hear(told(Look.model_validate_json(said)))
        return 0

    async def _run(self, _module: str, said: bytes, hear: Callable[[dict[str, Any]], None]) -> int:
        self.orders.append(Order.model_validate_json(said))
        self._hear, self._end = hear, asyncio.get_running_loop().create_future()
        self._news.set()
        try:
            return await self._end
        finally:
            self.ended.append(self.orders[-1].folder.name)

    async def begun(self) -> None:
        """Wait until the next one has begun."""
        await asyncio.wait_for(self._news.wait(), 60)
        self._news.clear()

    def tells(self, done: float, total: float = 10.0, found: int = 1, left: float | None = 9.5) -> None:
        """Say how far it is."""
        assert self._hear is not None
        self._hear({"done": done, "total": total, "stage": "explaining", "found": found, "left": left})

    def fails(self, reason: str) -> None:
        """Say why it cannot be done."""
        assert self._hear is not None
        self._hear({"failed": reason})
        self.exits(0)

    def exits(self, code: int) -> None:
        """End the process."""
        assert self._end is not None
        if not self._end.done():
            self._end.set_result(code)

    def finishes(self) -> None:
        """Have all of it done."""
        assert self._hear is not None
        folder = self.orders[-1].folder
        (folder / RESULT).write_text(json.dumps(RESULTS), encoding="utf-8")
        (folder / REPORT).write_text("<!doctype html><p>report</p>", encoding="utf-8")
        self._hear({"done": True})
        self.exits(0)
