"""What comes out of a run: scores with their intervals, gates, recommendations, warnings; as JSON, too."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import service
from service.evaluation.asked import METRICS
from service.evaluation.baselines import BASELINES
from service.evaluation.findings import findings_of, reference
from service.evaluation.overview import overview_of
from service.evaluation.passing import gates_of
from service.evaluation.recommendation import recommend
from service.evaluation.scores import Scores

if TYPE_CHECKING:
    from service.evaluation.findings import Finding
    from service.evaluation.groups import Group
    from service.evaluation.overview import ClassMean, Overview
    from service.evaluation.passing import Gates
    from service.evaluation.recommendation import Recommendation
    from service.evaluation.run import Run
    from service.evaluation.statistics import Interval

__all__ = ["Outcome", "interval_as_json", "outcome_of"]


@dataclass(frozen=True)
class Outcome:
    """An evaluation's outcome.

    Attributes:
        scores: of the run, which is done.
        gates: of each candidate that stands for itself.
        recommendations: one per purpose.
        findings: the warnings.
        overview: of the maps of the candidate whose maps are looked at.
    """

    scores: Scores
    gates: dict[int, Gates]
    recommendations: list[Recommendation]
    findings: list[Finding]
    overview: Overview

    @property
    def run(self) -> Run:
        """The run."""
        return self.scores.run

    def as_json(self) -> dict[str, Any]:
        """Return what docs/evaluate.md describes: numbers, strings, lists and dictionaries."""
        info, asked = self.run.subject.info, self.run.asked
        shown = asked.arms[self.overview.arm]
        return {
            "camserve": service.__version__,
            "model": {"name": info.name, "version": info.version, "digest": info.digest},
            "seed": asked.seed,
            "images": len(self.run.pictures),
            "rows": [self._row(arm) for arm in range(len(asked.arms))],
            "recommendations": [self._recommendation(each) for each in self.recommendations],
            "warnings": [{"code": each.code, "text": each.text} for each in self.findings],
            "baselines": [{"name": name, "metrics": self._metrics(name)} for name in BASELINES],
            "overview": {
                "layer": shown.layer,
                "method": shown.method,
                "class_means": [self._mean(each) for each in self.overview.means],
                "groups": [self._group(each) for each in self.overview.groups],
            },
        }

    def _mean(self, mean: ClassMean) -> dict[str, Any]:
        label = self.run.subject.info.labels[mean.label]
        return {"label": label, "index": mean.label, "images": len(mean.pictures), "dead": mean.dead}

    def _group(self, group: Group) -> dict[str, Any]:
        return {
            "files": [self.run.pictures[picture].name for picture in group.members],
            "labels": self.labels(group),
            "alike": round(group.alike, 6),
            "beyond_chance": group.beyond_chance,
            "place": [round(value, 6) for value in group.place],
            "warned": any(each is group for each in self.overview.shared),
        }

    def labels(self, group: Group) -> dict[str, int]:
        """Return how many pictures of a group are predicted to be what, the most frequent first."""
        labels, classes = self.run.subject.info.labels, self.run.maps.classes
        return dict(Counter(labels[classes[picture]] for picture in group.members).most_common())

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
        return {name: interval_as_json(each) for name, each in found.items() if each.n}

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


def interval_as_json(found: Interval) -> dict[str, float | int]:
    """Return an interval as JSON has it; what is no number is left out."""
    values = {"mean": found.mean, "low": found.low, "high": found.high}
    return {**{name: round(value, 6) for name, value in values.items() if math.isfinite(value)}, "n": found.n}


def outcome_of(run: Run) -> Outcome:
    """Draw the conclusions of a run that is done."""
    scores = Scores(run)
    gates = {arm: gates_of(scores, arm) for arm in run.maps.distinct}
    recommendations = [recommend(scores, gates, purpose) for purpose in run.asked.purposes]
    overview = overview_of(scores, reference(scores, recommendations))
    findings = findings_of(scores, gates, overview)
    return Outcome(scores, gates, recommendations, findings, overview)
