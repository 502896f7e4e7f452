"""Large batches stand aside for small ones of other models, where they share the cores.

Runs in the worker process.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

__all__ = ["GiveWay"]

# However long a small batch takes, a large one goes on after so many seconds.
_PATIENCE_S = 1.0


class GiveWay:
    """Knows which small batches are being computed, and lets a large one wait for them between its steps.

    Of the same model they wait for each other's lock, see ``FairLock``. Two computations at once on the same cores take
    longer than one after the other, and the small one is the one that somebody waits for.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._small: dict[int, Hashable] = {}

    @contextmanager
    def small(self, batch: int, model: Hashable) -> Iterator[None]:
        """Compute a small batch of ``model`` in the block."""
        with self._changed:
            self._small[batch] = model
        try:
            yield
        finally:
            with self._changed:
                del self._small[batch]
                self._changed.notify_all()

    def wait(self, model: Hashable) -> None:
        """Wait for those small batches of other models that are there now, but not for any that come meanwhile."""
        with self._changed:
            present = [batch for batch, other in self._small.items() if other != model]
            self._changed.wait_for(lambda: not any(batch in self._small for batch in present), _PATIENCE_S)
