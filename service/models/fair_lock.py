"""A lock that threads get in order of arrival, and whose holder can let those that wait go first."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FairLock"]


class FairLock:
    """Serves threads in order of arrival; with ``threading.Lock``, one that comes back at once overtakes them."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._held = False

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()  # handed over: the lock stays held
            else:
                self._held = False

    def yield_to_waiting(self) -> bool:
        """Let all threads that wait now go first; the caller holds the lock, and holds it again afterwards.

        Returns:
            Whether there were any.
        """
        if not self._waiting:
            return False
        self.__exit__(None, None, None)
        self.__enter__()
        return True
