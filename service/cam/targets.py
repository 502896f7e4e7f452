"""Which classes are explained, and how maps are made. Needs no torch to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.vocabulary import Fuse, Registration

__all__ = ["PLAIN", "CamOptions", "Targets", "Top"]


@dataclass(frozen=True)
class Top:
    """The ``k`` classes with the highest logits, best first; ``Top(1)`` is the predicted class."""

    k: int


@dataclass(frozen=True)
class Targets:
    """The classes that are explained for one image, each compared with the class ``against`` where that is given."""

    classes: tuple[int | Top, ...]
    against: int | None = None

    @property
    def count(self) -> int:
        """How many classes there are."""
        return sum(target.k if isinstance(target, Top) else 1 for target in self.classes)

    def resolve(self, ranking: Sequence[int]) -> tuple[int, ...]:
        """Return the class indices, given this row's classes by falling logit."""
        found: list[int] = []
        for target in self.classes:
            found.extend(ranking[: target.k] if isinstance(target, Top) else [target])
        return tuple(found)


@dataclass(frozen=True)
class CamOptions:
    """How maps are made, the same for all images of a batch.

    Attributes:
        signed: keep what speaks against the class, as values below zero.
        smooth: average over so many noisy copies of the image; 0 for none.
        flip: average over the image and its mirror image.
        fuse: make one map of those of several layers.
        registration: how their grids are brought together; it means nothing without ``fuse``.
    """

    signed: bool = False
    smooth: int = 0
    flip: bool = False
    fuse: Fuse | None = None
    registration: Registration = "measured"

    @property
    def views(self) -> int:
        """How many times the model sees each image."""
        return max(1, self.smooth) * (2 if self.flip else 1)


PLAIN = CamOptions()
