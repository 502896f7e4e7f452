"""An evaluation as the front knows it: who asked for what, and how far it is.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, Field

from service.evaluation.asked import Purpose  # noqa: TC001
from service.jobs.material import Skipped  # noqa: TC001
from service.vocabulary import EvaluationState

__all__ = ["STATES", "Facts", "Job"]

STATES: tuple[EvaluationState, ...] = get_args(EvaluationState)
_OVER = frozenset({"done", "failed", "cancelled"})


class Facts(BaseModel):
    """What is kept of an evaluation over a restart; pictures and what was found lie in its folder.

    Attributes:
        id: of the evaluation.
        owner: the name of the API key that asked for it; None where there are none.
        model: name of the model.
        digest: of the model.
        layers: to compare.
        methods: to compare.
        purposes: what maps are wanted for.
        seed: what all chance follows from.
        images: how many pictures there are.
        skipped: what was left out.
        created: Unix time at which it was asked for.
        state: how far it is.
        reason: why it failed.
        ended: Unix time at which it ended.
        seconds: that processes have spent on it.
        restarts: how often its process was started again.
    """

    id: str
    owner: str | None
    model: str
    digest: str
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    purposes: tuple[Purpose, ...]
    seed: int
    images: int
    skipped: tuple[Skipped, ...] = ()
    created: float = Field(default_factory=time.time)
    state: EvaluationState = "queued"
    reason: str | None = None
    ended: float | None = None
    seconds: float = 0.0
    restarts: int = 0


@dataclass
class Job:
    """One evaluation. Lives in one event loop, which alone may change it.

    Attributes:
        facts: what is kept of it.
        progress: share that is done, 0 to 1; never less than it was.
        stage: what is being done.
        found: steps that the present process has added to what was known.
    """

    facts: Facts
    progress: float = 0.0
    stage: str | None = None
    found: int = 0
    task: asyncio.Task[None] | None = None
    readers: int = 0
    _left: float | None = None
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether nothing more comes of it."""
        return self.facts.state in _OVER

    @property
    def eta_s(self) -> float | None:
        """Seconds that it should still take; None where nobody knows."""
        return None if self._left is None or self.facts.state != "running" else round(self._left, 1)

    def begins(self) -> None:
        """Take note that a process begins with it."""
        self.facts.state, self.found = "running", 0
        self._left = None
        self.changed()

    def hears(self, message: dict[str, Any]) -> None:
        """Take note of how far its process is."""
        done, total, left = float(message["done"]), float(message["total"]), message["left"]
        self.stage, self.found = str(message["stage"]), int(message["found"])
        self.progress = max(self.progress, min(1.0, done / total))
        self._left = None if left is None else float(left)
        self.changed()

    def ends(self, state: EvaluationState, reason: str | None = None) -> None:
        """Take note that nothing more comes of it."""
        self.facts.state, self.facts.reason, self.facts.ended = state, reason, time.time()
        self.stage = None
        if state == "done":
            self.progress = 1.0
        self.changed()

    def changed(self) -> None:
        """Wake whoever waits for news of it."""
        self._news.set()
        self._news = asyncio.Event()

    async def news(self, timeout_s: float) -> bool:
        """Wait until something has changed; False where nothing has in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        return True
