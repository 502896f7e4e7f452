"""What a run has found, as scores per picture."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from service.evaluation.asked import PURPOSES
from service.evaluation.pxap import average_precision
from service.evaluation.statistics import cross_fitted, interval, pooled_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.evaluation.asked import Metric, Purpose
    from service.evaluation.run import Run
    from service.evaluation.statistics import Interval

__all__ = ["Scores"]

_OUTLINE = ("iou", "pxap")  # say little of objects of which only boxes are known


class Scores:
    """Scores per picture, of candidates (``a3``), of their shifted maps (``s3``) and of baselines, by these names."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._n, self._seed = len(run.pictures), run.asked.seed
        self.of = cache(self._of)

    @cached_property
    def outlined(self) -> bool:
        """Whether the objects' outlines are known, and not only their boxes."""
        truths = (self.run.pictures[i].truth(self.run.maps.classes[i]) for i in self._marked)
        return bool(self._marked) and all(truth is not None and truth.outlined for truth in truths)

    @cached_property
    def _marked(self) -> list[int]:
        return [i for i in self.run.marked if f"truth/{i}" in self.run.state]

    @cached_property
    def metrics(self) -> tuple[Metric, ...]:
        """What could be measured."""
        found: list[Metric] = []
        if self._marked:
            found += ["pointing_game", "mass_inside", "max_box_acc"]
            found += ["iou", "pxap"] if self.outlined else []
        if "faithfulness" in self.run.asked.purposes:
            found += ["road", "insertion_deletion"]
        if "class" in self.run.asked.purposes and self.run.mosaics:
            found.append("grid_pointing_game")
        return tuple(found)

    def ranked_by(self, purpose: Purpose) -> tuple[Metric, ...]:
        """What candidates are ranked by for a purpose: with outlines IoU, with boxes alone MaxBoxAccV2."""
        overlap: Metric = "max_box_acc" if self.outlined else "iou"
        return tuple(name for name in PURPOSES[purpose] if name in self.metrics and name != overlap)

    def for_purpose(self, purpose: Purpose, who: str) -> NDArray[np.float64]:
        """Return the mean of the metrics of a purpose, per picture (n,); NaN where one was not measured."""
        names = self.ranked_by(purpose)
        if not names:
            return np.full(self._n, np.nan)
        # ROAD lies in -0.5 to 0.5, what it is averaged with in -1 to 1.
        rows = [self.of(name, who) * (2 if name == "road" else 1) for name in names]
        return np.asarray(np.mean(rows, axis=0))

    def interval(self, metric: Metric, who: str) -> Interval:
        """Return the mean of a metric over the pictures it was measured on, with its interval."""
        if metric == "pxap":
            counts = np.stack([self.run.state[f"truth/{i}"]["pxap"][self._row(who)] for i in self._marked])
            return pooled_interval(counts, average_precision, self._seed)
        return interval(self.of(metric, who), self._seed)

    def difference(
        self, metric: Metric, who: str, other: Scores, whose: str
    ) -> tuple[Interval, Interval, Interval] | None:
        """Return a metric here, in another run of the same pictures, and what it is more there, picture by picture.

        All are of the pictures that it was measured on in both runs; None without any.
        """
        if metric == "pxap":
            return self._pixel_difference(who, other, whose)
        here, there = self.of(metric, who), other.of(metric, whose)
        both = ~np.isnan(here + there)
        if not both.any():
            return None
        found = [interval(each[both], self._seed) for each in (here, there, there - here)]
        return found[0], found[1], found[2]

    def _pixel_difference(self, who: str, other: Scores, whose: str) -> tuple[Interval, Interval, Interval] | None:
        """See ``difference``: what is pooled over pictures is resampled together."""
        both = [i for i in self._marked if i in set(other._marked)]
        if not both:
            return None
        here, there = ([scores.run.state[f"truth/{i}"]["pxap"][scores._row(name)] for i in both]
                       for scores, name in ((self, who), (other, whose)))  # fmt: skip
        counts = np.stack([here, there], axis=1)  # (pictures, 2, 2, BINS)
        one, two = (pooled_interval(counts[:, each], average_precision, self._seed) for each in (0, 1))
        return one, two, pooled_interval(counts, _more_precise, self._seed)

    def _row(self, who: str) -> int:
        return self.run.whose(shifts=True).index(who)

    def _of(self, metric: Metric, who: str) -> NDArray[np.float64]:
        """Return a score per picture (n,), NaN where it was not measured."""
        if metric in {"road", "insertion_deletion"}:
            return self.run.perturbed(metric, who)
        if metric == "grid_pointing_game":
            return self._shares(who)
        if not self._marked:
            return np.full(self._n, np.nan)
        stacked = np.stack([self.run.state[f"truth/{i}"][metric][self._row(who)] for i in self._marked])
        found = np.full(self._n, np.nan)
        found[self._marked] = self._per_picture(stacked)
        return found

    def _per_picture(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return (n,) for scores (n,), at thresholds (n, T), or for overlaps and thresholds (n, 3, T)."""
        if values.ndim == 1:
            return values.astype(np.float64)
        if values.ndim == 2:
            return cross_fitted(values, self._seed)
        each = [cross_fitted(values[:, k].astype(np.float64), self._seed) for k in range(values.shape[1])]
        return np.asarray(np.mean(each, axis=0))

    def _shares(self, who: str) -> NDArray[np.float64]:
        whose = self.run.whose(shifts=False)
        sums, counts = np.zeros(self._n), np.zeros(self._n)
        for index, mosaic in enumerate(self.run.mosaics):
            found = self.run.found(f"mosaic/{index}")
            if found is None or who not in whose:
                continue
            for share, cell in zip(found["share"][whose.index(who)], mosaic.scored, strict=True):
                sums[mosaic.pictures[cell]] += share
                counts[mosaic.pictures[cell]] += 1
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    def outside(self, arm: int) -> list[int]:
        """Return the marked pictures whose map lies outside the object.

        That is: no maximum hits, and less of the map is inside than of one that is the same everywhere.
        """
        found, classes = [], self.run.maps.classes
        hits, mass = self.of("pointing_game", f"a{arm}"), self.of("mass_inside", f"a{arm}")
        for picture in np.flatnonzero(~np.isnan(hits)).tolist():
            truth = self.run.pictures[picture].truth(classes[picture])
            if truth is not None and hits[picture] == 0 and mass[picture] < float(truth.mask.mean()):
                found.append(picture)
        return found

    def head_correlation(self, arm: int) -> float:
        """Return the mean correlation of an arm's maps with those of random heads; NaN where there are none."""
        rows: list[NDArray[Any]] = []
        while (found := self.run.found(f"head/{len(rows)}")) is not None:
            rows.append(found["correlation"][arm])
        return float(np.mean(rows)) if rows else float("nan")


def _more_precise(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much higher the second average precision is, of counts (…, 2, 2, BINS)."""
    found = average_precision(counts)
    return np.asarray(found[..., 1] - found[..., 0])
