"""The door: how much may be inside at once, and when to come back if there is no room.

Runs in the front process.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.engine.cost import Cost
from service.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Admission"]

_MAX_RETRY_AFTER_S = 300
# A request of no more than so large a share of all room is small, and a fifth of the room is for small ones alone.
_SMALL = 0.01
_FOR_SMALL = 0.2


class Admission:
    """Counts images and work accepted and not yet answered, whatever stage they are in, so that both stay bounded.

    Args:
        limit: how many images may be inside.
        most: how much work may be. What is more by itself is let in alone.
        clock: seconds, monotonic.

    Attributes:
        inside: images.
        cost: their work, as far as it is known.
    """

    def __init__(self, limit: int, most: Cost, clock: Callable[[], float]) -> None:
        self._limit, self._most = limit, most
        self._clock = clock
        self._moved_at = 0.0
        self._seconds = 0.0
        self._holders = 0
        self.inside = 0
        self.cost = Cost()

    def check(self, images: int = 1) -> None:
        """Refuse before any work is done.

        Raises:
            Overloaded: no room for so many; ``retry_after_s`` says when there should be.
        """
        if self.inside + images > self._limit:
            raise Overloaded(
                f"The queue is full: {self.inside} of {self._limit} pictures are waiting. Try again later.",
                retry_after_s=self.retry_after_s(),
            )

    @contextmanager
    def admit(self, images: int) -> Iterator[None]:
        """Hold room for ``images`` while they are inside; raises as :meth:`check` does."""
        self.check(images)
        if not self.inside:
            self._moved_at = self._clock()
        self.inside += images
        try:
            yield
        finally:
            self.inside -= images
            self._moved_at = self._clock()

    @contextmanager
    def admit_work(self, cost: Cost, seconds: float) -> Iterator[None]:
        """Hold room for work while it is inside.

        Args:
            cost: the work.
            seconds: how long it should take by itself.

        Raises:
            Overloaded: no room for so much; ``retry_after_s`` says when there should be.
        """
        room = self._most if cost.within(self._most * _SMALL) else self._most * (1 - _FOR_SMALL)
        if self._holders and not (self.cost + cost).within(room):
            raise Overloaded(
                "Too much work is waiting for a request as large as this. Ask for less, or try again later.",
                retry_after_s=self.retry_after_s(),
            )
        with self.hold(cost, seconds):
            yield

    @contextmanager
    def hold(self, cost: Cost, seconds: float = 0.0) -> Iterator[None]:
        """Count as inside what was let in before and is still there."""
        self.cost += cost
        self._seconds += seconds
        self._holders += 1
        try:
            yield
        finally:
            self.cost -= cost
            self._seconds -= seconds
            self._holders -= 1
            if not self._holders:
                self.cost, self._seconds = Cost(), 0.0  # sums of fractions leave something over

    def retry_after_s(self) -> int:
        """Whole seconds until half of what is inside should be done, at least as long as nothing moved; 1 to 300."""
        stalled = self._clock() - self._moved_at if self.inside else 0.0
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(max(self._seconds / 2, stalled))))
