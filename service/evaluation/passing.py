"""Which candidates pass the gates: what must hold before it matters who scores best."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.evaluation.asked import PURPOSES
from service.evaluation.baselines import BASELINES
from service.evaluation.candidates import never
from service.evaluation.gates import at_border, correlation
from service.evaluation.statistics import beats

if TYPE_CHECKING:
    from service.evaluation.asked import Purpose
    from service.evaluation.scores import Scores

__all__ = ["Gates", "gates_of"]

_DEAD, _BORDER = 0.2, 0.2  # of the pictures
_SAME_CLASSES, _SAME_HEAD = 0.9, 0.9  # correlations
_CHANCE = 0.25  # of a cell of a mosaic


@dataclass(frozen=True)
class Gates:
    """What one candidate passes.

    Attributes:
        dead: share of the pictures whose map says nothing of places.
        border: share of the pictures whose map lies in one border row or column.
        same_classes: median correlation of the maps of the predicted class and of the runner-up; None of one class.
        same_head: mean correlation with the maps of random heads; None where there is none.
        beats: by purpose, whether it beats ``random``, ``centre``, ``edges`` and ``shifted``; None where not measured.
        excluded: why it is never recommended, whatever the purpose; None where it may be.
    """

    dead: float
    border: float
    same_classes: float | None
    same_head: float | None
    beats: dict[Purpose, dict[str, bool | None]] = field(default_factory=dict)
    excluded: str | None = None

    @property
    def class_sensitive(self) -> bool | None:
        """Whether another class has another map."""
        return None if self.same_classes is None else self.same_classes < _SAME_CLASSES

    @property
    def head_sensitive(self) -> bool | None:
        """Whether a head that has learned nothing has another map."""
        return None if self.same_head is None else self.same_head < _SAME_HEAD

    def beaten(self, name: str) -> bool | None:
        """Whether it beats a baseline for every purpose that it was measured for; None where for none."""
        told = [found for each in self.beats.values() if (found := each.get(name)) is not None]
        return all(told) if told else None

    def missing(self, purpose: Purpose) -> str | None:
        """Say what it does not pass for a purpose; None where it passes."""
        if self.excluded is not None:
            return self.excluded
        if self.head_sensitive is False:
            return "its maps hardly change when the head has learned nothing"
        if purpose == "class" and self.class_sensitive is False:
            return "it shows the same regions for every class"
        failed = [name for name, found in self.beats[purpose].items() if found is False]
        return f"it is not better beyond doubt than {_WORDS[failed[0]]}" if failed else None


_WORDS = {
    "random": "a random map",
    "centre": "a map that marks the centre of every picture",
    "edges": "a map of the picture's edges",
    "shifted": "its own maps put elsewhere",
}


def gates_of(scores: Scores, arm: int) -> Gates:
    """Return what a candidate passes."""
    run = scores.run
    maps, numbers = run.maps, range(len(run.pictures))
    dead = float(np.mean([maps.is_dead(arm, i) for i in numbers]))
    border = float(np.mean([at_border(maps.raw(arm, i)) for i in numbers]))
    two = maps.ranking.shape[1] > 1
    alike = [correlation(maps.raw(arm, i), maps.raw(arm, i, 1)) for i in numbers] if two else []
    head = scores.head_correlation(arm)
    excluded = never(run.subject.info, run.asked.arms[arm])
    if excluded is None and dead > _DEAD:
        excluded = f"its map says nothing of places for {dead:.0%} of the pictures"
    if excluded is None and border > _BORDER:
        excluded = f"its map lies in one border row or column for {border:.0%} of the pictures"
    specific = METHODS[run.asked.arms[arm].method].class_specific
    return Gates(
        dead,
        border,
        (float(np.median(alike)) if specific else 1.0) if alike else None,
        None if np.isnan(head) or not specific else head,
        {purpose: _beats(scores, purpose, arm) for purpose in PURPOSES if scores.ranked_by(purpose)},
        excluded,
    )


def _beats(scores: Scores, purpose: Purpose, arm: int) -> dict[str, bool | None]:
    seed = scores.run.asked.seed
    own = scores.for_purpose(purpose, f"a{arm}")
    found = {name: beats(own, scores.for_purpose(purpose, name), seed) for name in BASELINES}
    if purpose == "class":
        return {**found, "random": beats(own, np.where(np.isnan(own), np.nan, _CHANCE), seed)}
    if purpose == "faithfulness":
        return {**found, "shifted": beats(scores.of("road", f"a{arm}"), scores.of("road", f"s{arm}"), seed)}
    return {**found, "shifted": beats(own, scores.for_purpose(purpose, f"s{arm}"), seed)}
