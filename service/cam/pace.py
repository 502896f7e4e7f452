"""How much is computed in one step, so that whoever waits for it waits for a bounded time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["STEP_S", "Pace"]

STEP_S = 0.05
"""Seconds that a step of several rows takes at most, or twice as long as one of a single row, where that saves time."""

# A first step is of one row, and the next of no more than so many times as many, however fast it was.
_GROWTH = 4

# Where a row takes so much of what a row alone takes, computing several at once saves nothing worth waiting for.
_SAVES_NOTHING = 0.75


class Pace:
    """Decides how many rows make a step, judged by the steps before.

    Steps of one kind take the same time to begin with, such as what comes before a layer, and the same for each row; a
    kind is whatever the caller likes.
    """

    def __init__(self, step_s: float = STEP_S) -> None:
        self._step_s = step_s
        self._rows: dict[Hashable, int] = {}
        self._single_s: dict[Hashable, float] = {}
        self._singly: set[Hashable] = set()

    def rows(self, kind: Hashable) -> int:
        """Return how many rows the next step is to have."""
        return self._rows.get(kind, 1)

    def took(self, kind: Hashable, rows: int, seconds: float) -> None:
        """Note what a step of ``rows`` took."""
        single_s = self._single_s.setdefault(kind, seconds / rows)
        if rows > 1 and seconds / rows > _SAVES_NOTHING * single_s:
            self._singly.add(kind)
        step_s = max(self._step_s, single_s if kind in self._singly else 2 * single_s)
        fitting = int(step_s * rows / seconds) if seconds > 0 else rows * _GROWTH
        self._rows[kind] = max(1, min(fitting, _GROWTH * rows))
