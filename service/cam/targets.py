"""What can be asked about a picture, and how. Needs no torch to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["PLAIN", "Fuse", "Question", "Top", "Variant"]

Fuse = Literal["max", "mean", "product"]


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


@dataclass(frozen=True)
class Variant:
    """How maps are made, the same for all pictures of a batch.

    Attributes:
        signed: keep what speaks against the class, as values below zero.
        smooth: average over so many noisy copies of the picture; 0 for none.
        flip: average over the picture and its mirror image.
        fuse: make one map of those of several layers.
    """

    signed: bool = False
    smooth: int = 0
    flip: bool = False
    fuse: Fuse | None = None

    @property
    def views(self) -> int:
        """How many times the model sees each picture."""
        return max(1, self.smooth) * (2 if self.flip else 1)


PLAIN = Variant()
