"""What comes out of a run: scores with their intervals, gates, recommendations, warnings; as JSON, too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import service
from service.evaluation.asked import METRICS
from service.evaluation.baselines import BASELINES
from service.evaluation.findings import findings_of
from service.evaluation.passing import gates_of
from service.evaluation.recommendation import recommend
from service.evaluation.scores import Scores

if TYPE_CHECKING:
    from service.evaluation.findings import Finding
    from service.evaluation.passing import Gates
    from service.evaluation.recommendation import Recommendation
    from service.evaluation.run import Run
    from service.evaluation.statistics import Interval

__all__ = ["Outcome", "outcome_of"]


@dataclass(frozen=True)
class Outcome:
    """An evaluation's outcome.

    Attributes:
        scores: of the run, which is done.
        gates: of each candidate that stands for itself.
        recommendations: one per purpose.
        findings: the warnings.
    """

    scores: Scores
    gates: dict[int, Gates]
    recommendations: list[Recommendation]
    findings: list[Finding]

    @property
    def run(self) -> Run:
        """The run."""
        return self.scores.run

    def as_json(self) -> dict[str, Any]:
        """Return what docs/evaluate.md describes: numbers, strings, lists and dictionaries."""
        info, asked = self.run.subject.info, self.run.asked
        return {
            "camserve": service.__version__,
            "model": {"name": info.name, "version": info.version, "digest": info.digest},
            "seed": asked.seed,
            "images": len(self.run.pictures),
            "rows": [self._row(arm) for arm in range(len(asked.arms))],
            "recommendations": [self._recommendation(each) for each in self.recommendations],
            "warnings": [{"code": each.code, "text": each.text} for each in self.findings],
            "baselines": [{"name": name, "metrics": self._metrics(name)} for name in BASELINES],
        }

    def _row(self, arm: int) -> dict[str, Any]:
        run, twin = self.run, self.run.maps.twins[arm]
        gates = self.gates[twin]
        own = {"layer": run.asked.arms[arm].layer, "method": run.asked.arms[arm].method}
        return {
            **own,
            "metrics": self._metrics(f"a{twin}"),
            "gates": {
                "dead": gates.dead,
                "padding": gates.border,
                **{f"beats_{name}": gates.beaten(name) for name in (*BASELINES, "shifted")},
                "class_sensitive": gates.class_sensitive,
                "head_sensitive": gates.head_sensitive,
            },
            "excluded": gates.excluded,
            "same_as": None if twin == arm else run.asked.arms[twin].layer,
        }

    def _metrics(self, who: str) -> dict[str, dict[str, float | int]]:
        found = {name: self.scores.interval(name, who) for name in METRICS if name in self.scores.metrics}
        return {name: _interval(each) for name, each in found.items() if each.n}

    def _recommendation(self, found: Recommendation) -> dict[str, Any]:
        arms = self.run.asked.arms
        chosen = None if found.arm is None else arms[found.arm]
        several = len({arm.method for arm in arms}) > 1
        return {
            "purpose": found.purpose,
            "layer": chosen and chosen.layer,
            "method": chosen and chosen.method,
            "ties": [str(arms[arm]) if several else arms[arm].layer for arm in found.ties],
            "text": found.text,
            "none_because": found.none_because,
            "images": found.pictures,
        }


def _interval(found: Interval) -> dict[str, float | int]:
    values = {"mean": found.mean, "low": found.low, "high": found.high}
    return {**{name: round(value, 6) for name, value in values.items() if math.isfinite(value)}, "n": found.n}


def outcome_of(run: Run) -> Outcome:
    """Draw the conclusions of a run that is done."""
    scores = Scores(run)
    gates = {arm: gates_of(scores, arm) for arm in run.maps.distinct}
    recommendations = [recommend(scores, gates, purpose) for purpose in run.asked.purposes]
    return Outcome(scores, gates, recommendations, findings_of(scores, gates, recommendations))
