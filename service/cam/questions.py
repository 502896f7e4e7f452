"""What can be asked about a picture. Needs no torch to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Question", "Top"]


@dataclass(frozen=True)
class Top:
    """The ``k`` classes with the highest logits, best first; ``Top(1)`` is the predicted class."""

    k: int


@dataclass(frozen=True)
class Question:
    """What one picture is asked: these classes, each rather than ``against`` where that is given."""

    targets: tuple[int | Top, ...]
    against: int | None = None

    def resolve(self, ranking: Sequence[int]) -> tuple[int, ...]:
        """Return the class indices asked for, given this row's classes by falling logit."""
        found: list[int] = []
        for target in self.targets:
            found.extend(ranking[: target.k] if isinstance(target, Top) else [target])
        return tuple(found)
