"""How much a run computes, in forward passes of the model, by the kinds of its steps; and how long that should take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.evaluation.baselines import BASELINES
from service.evaluation.insertion_deletion import STEPS
from service.evaluation.road import SHARES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.evaluation.asked import Purpose

__all__ = [
    "COST",
    "FIRST",
    "HEADS",
    "HEAD_PICTURES",
    "KEPT",
    "MOSAIC_PICTURES",
    "MOSAIC_ROUNDS",
    "MOST",
    "SECOND",
    "Expected",
    "TimeLeft",
    "expected_passes",
]

KEPT = 6  # candidates after the first round
FIRST, SECOND, MOST = 8, 24, 100  # pictures of the rounds
HEADS, HEAD_PICTURES = 5, 8
MOSAIC_PICTURES, MOSAIC_ROUNDS = 100, 2
# Of those that reach the last round nobody knows more beforehand than that several tie.
_FINALISTS = 4
COST = {
    "logits": 1.0,
    "maps": 5.0,
    "head": 3.0,
    "truth": 1.0,
    "ends": 3.0,
    "road": 2.0 * len(SHARES),
    "insertion_deletion": 2.0 * (STEPS - 1),
}
"""Of a step, for each picture; of a mosaic see the run."""


@dataclass(frozen=True)
class Expected:
    """What is known of a run; what is not yet is guessed.

    Attributes:
        pictures: how many there are.
        marked: on how many of them something is marked.
        arms: candidates; later those whose maps are their own.
        purposes: what maps are wanted for.
        kept: candidates that are left after the first round.
        finalists: candidates that reach the last one.
        mosaics: what all mosaics take together.
    """

    pictures: int
    marked: int
    arms: int
    purposes: Sequence[Purpose]
    kept: int | None = None
    finalists: int | None = None
    mosaics: float | None = None

    def amounts(self) -> dict[str, float]:
        """Return the forward passes of all steps, by their kinds, each method being as quick as Grad-CAM."""
        heads = HEADS * min(self.pictures, HEAD_PICTURES)
        found = {"logits": self.pictures * COST["logits"], "maps": self.pictures * COST["maps"]}
        found["head"] = heads * COST["head"]
        if "localisation" in self.purposes:
            found["truth"] = self.marked * COST["truth"]
        if "class" in self.purposes:
            guess = 12 + min(self.pictures, MOSAIC_PICTURES) / 4 * MOSAIC_ROUNDS * 9 * 4
            found["mosaic"] = guess if self.mosaics is None else self.mosaics
        return found | (self._perturbed() if "faithfulness" in self.purposes else {})

    def _perturbed(self) -> dict[str, float]:
        second, rest = min(self.pictures, SECOND), max(0, min(self.pictures, MOST) - SECOND)
        kept = min(self.arms, KEPT) if self.kept is None else self.kept
        finalists = min(kept, _FINALISTS) if self.finalists is None else self.finalists
        first = self.arms * min(self.pictures, FIRST) if self.arms > KEPT else 0
        known = kept * min(self.pictures, FIRST) if first else 0  # the first round's are not measured twice
        baselines = len(BASELINES)
        return {
            "ends": (second + rest) * COST["ends"],
            "road": (first - known + second * (2 * kept + baselines) + rest * finalists) * COST["road"],
            "insertion_deletion": (second * (kept + baselines) + rest * finalists) * COST["insertion_deletion"],
        }


def expected_passes(pictures: int, marked: int, arms: int, purposes: Sequence[Purpose]) -> float:
    """Estimate the forward passes of all rounds of a run, each method being as quick as Grad-CAM.

    Args:
        pictures: how many there are.
        marked: on how many of them something is marked.
        arms: candidates.
        purposes: what maps are wanted for.
    """
    return sum(Expected(pictures, marked, arms, purposes).amounts().values())


class TimeLeft:
    """Tells how long what is left should take, by what each kind of step took so far.

    A forward pass is not all that a step does: what fills removed pixels is no work of the model, and takes longer than
    a small one does. So every kind has a speed of its own; one that nobody has seen yet goes at that of predictions.
    """

    def __init__(self) -> None:
        self._amounts: dict[str, float] = {}
        self._seconds: dict[str, float] = {}

    def took(self, kind: str, amount: float, seconds: float) -> None:
        """Note how long a step took."""
        self._amounts[kind] = self._amounts.get(kind, 0.0) + amount
        self._seconds[kind] = self._seconds.get(kind, 0.0) + seconds

    def of(self, left: Mapping[str, float]) -> float | None:
        """Return seconds for what is left of each kind; None while nothing is known of the most of it."""
        known = sum(amount for kind, amount in left.items() if kind in self._amounts)
        total = sum(left.values())
        if not self._amounts or 2 * known < total:
            return None
        slowness = {kind: self._seconds[kind] / self._amounts[kind] for kind in self._amounts}
        # A run that was gone on with has no predictions.
        unseen = slowness.get("logits", sum(self._seconds.values()) / sum(self._amounts.values()))
        return sum(amount * slowness.get(kind, unseen) for kind, amount in left.items())
