"""Two models, or two versions of one, on the same pictures: what became of answers, of maps and of scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from service.evaluation.asked import METRICS
from service.evaluation.outcome import interval_as_json
from service.imaging.difference import moved
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.evaluation.asked import Metric
    from service.evaluation.outcome import Outcome
    from service.evaluation.run import Run
    from service.evaluation.statistics import Interval
    from service.imaging.geometry import Geometry

__all__ = ["Answer", "Comparison", "Difference", "Shift", "levels_at"]

_SIDE = 64  # of the grid, on the picture, on which maps are compared, at most


@dataclass(frozen=True)
class Answer:
    """A picture's predicted class, and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Shift:
    """What became of one picture.

    Attributes:
        picture: its number.
        moved: the share of the map's mass that lies elsewhere on the picture, 0 to 1.
        answers: of the first model, and of the second.
    """

    picture: int
    moved: float
    answers: tuple[Answer, Answer]

    @property
    def same_answer(self) -> bool:
        """Whether both predict the same class, by name."""
        return self.answers[0].label == self.answers[1].label


@dataclass(frozen=True)
class Difference:
    """A metric of both, and what the second has more, over the pictures that both were measured on."""

    first: Interval
    second: Interval
    more: Interval

    @property
    def beyond_doubt(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.more.low > 0 or self.more.high < 0


@dataclass(frozen=True)
class Comparison:
    """Two outcomes of the same pictures, in the same order, with the same seed.

    Attributes:
        first: of the model that is compared.
        second: of the other one.
    """

    first: Outcome
    second: Outcome

    @cached_property
    def arms(self) -> tuple[int, int]:
        """The candidates whose maps are compared: the first one's, the same of the second where it has that."""
        arm = self.first.overview.arm
        wanted = self.first.run.asked.arms[arm]
        others = self.second.run.asked.arms
        if wanted not in others:
            return arm, self.second.overview.arm
        return arm, self.second.run.maps.twins[others.index(wanted)]

    @cached_property
    def names(self) -> tuple[str, str]:
        """What the models are called: with their versions where that tells them apart, else by their places."""
        infos = self.first.run.subject.info, self.second.run.subject.info
        for told in ([info.name for info in infos], [f"{info.name} {info.version}" for info in infos]):
            if told[0] != told[1]:
                return told[0], told[1]
        return f"{told[0]} (first)", f"{told[1]} (second)"

    @cached_property
    def shifts(self) -> list[Shift]:
        """The pictures: those whose answer stayed first, the ones whose map moved furthest first among them."""
        found = [self._shift(picture) for picture in range(len(self.first.run.pictures))]
        return sorted(found, key=lambda each: (not each.same_answer, -each.moved))

    def _shift(self, picture: int) -> Shift:
        runs = self.first.run, self.second.run
        geometry = runs[0].pictures[picture].geometry
        xs, ys = _grid(geometry)
        one, two = (levels_at(run, arm, picture, xs, ys) for run, arm in zip(runs, self.arms, strict=True))
        answers = [
            Answer(run.subject.info.labels[run.maps.classes[picture]], run.maps.confidence(picture)) for run in runs
        ]
        return Shift(picture, moved(one, two), (answers[0], answers[1]))

    @cached_property
    def differences(self) -> dict[Metric, Difference]:
        """By metric, what both candidates score and how they differ, where both were measured on the same pictures."""
        found: dict[Metric, Difference] = {}
        for metric in METRICS:
            if metric in self.first.scores.metrics and metric in self.second.scores.metrics:
                one, two = (f"a{arm}" for arm in self.arms)
                told = self.first.scores.difference(metric, one, self.second.scores, two)
                if told is not None:
                    found[metric] = Difference(*told)
        return found

    def as_json(self) -> dict[str, Any]:
        """Return what docs/evaluate.md describes."""
        runs = self.first.run, self.second.run
        arms = [run.asked.arms[arm] for run, arm in zip(runs, self.arms, strict=True)]
        return {
            "maps": [{"model": name, "layer": arm.layer, "method": arm.method}
                     for name, arm in zip(self.names, arms, strict=True)],
            "same_answer": sum(each.same_answer for each in self.shifts),
            "median_moved": round(float(np.median([each.moved for each in self.shifts])), 6),
            "pictures": [self._picture(each) for each in self.shifts],
            "metrics": {
                name: {part: interval_as_json(getattr(each, part)) for part in ("first", "second", "more")}
                for name, each in self.differences.items()
            },
            "second": self.second.as_json(),
        }  # fmt: skip

    def _picture(self, shift: Shift) -> dict[str, Any]:
        answers = [{"label": each.label, "probability": round(each.probability, 6)} for each in shift.answers]
        name = self.first.run.pictures[shift.picture].name
        return {
            "file": name,
            "moved": round(shift.moved, 6),
            "same_answer": shift.same_answer,
            "answers": answers,
        }


def _grid(geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return columns and rows of a picture, in its pixels: 64 along the longer side, and no more than there are."""
    width, height = geometry.image_width, geometry.image_height
    step = max(1.0, max(width, height) / _SIDE)
    counts = [max(1, round(size / step)) for size in (width, height)]
    xs, ys = ((np.arange(n) + 0.5) * size / n for n, size in zip(counts, (width, height), strict=True))
    return xs, ys


def levels_at(run: Run, arm: int, picture: int, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a map at places of a picture, (m, n), 255 its maximum there; 0 where the model did not look.

    Args:
        run: which is done.
        arm: the candidate.
        picture: the number of the picture.
        xs: columns (n,), in pixels of the picture.
        ys: rows (m,), likewise.
    """
    values, geometry = run.maps.raw(arm, picture), run.pictures[picture].geometry
    placement = run.maps.placement(arm, values.shape)
    columns, rows = geometry.to_model(xs, ys)
    read = np.maximum(resample(values, placement.x.to_cells(columns), placement.y.to_cells(rows)), 0)
    read[:, (columns < 0) | (columns > geometry.model_width)] = 0
    read[(rows < 0) | (rows > geometry.model_height)] = 0
    highest = float(read.max())
    return np.rint(read * (255 / highest) if highest > 0 else read).astype(np.uint8)
