"""The door: how many images may be inside at once, and when to come back if there is no room.

Runs in the front process.
"""

from __future__ import annotations

import math
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Admission"]

_MAX_RETRY_AFTER_S = 30
_REMEMBERED = 64


class Admission:
    """Counts images accepted and not yet answered, whatever stage they are in, so that memory stays bounded.

    Args:
        limit: how many may be inside.
        clock: seconds, monotonic.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._departures: deque[float] = deque(maxlen=_REMEMBERED)
        self.inside = 0

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
        self.inside += images
        try:
            yield
        finally:
            self.inside -= images
            now = self._clock()
            self._departures.extend([now] * min(images, _REMEMBERED))

    def retry_after_s(self) -> int:
        """Whole seconds until half of those inside should have left, at the recent rate; 1 to 30."""
        if len(self._departures) < 2:
            return 1
        elapsed = self._clock() - self._departures[0]
        rate = len(self._departures) / max(elapsed, 1e-3)
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(self.inside / 2 / rate)))
