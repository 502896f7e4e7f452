"""The run of an evaluation, step by step: what to compute next follows from what was found so far.

Between two steps others may use the model, the run may be given up, or its state kept and gone on with elsewhere.
Each step is one batch of the model, or a few. The expensive ones, which take pixels away, come in rounds that fewer
candidates reach (successive halving): some pictures for all, more for those that did well, all for those that tie.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import MethodNotApplicable, ModelOutputError
from service.evaluation import expected
from service.evaluation.asked import PURPOSES
from service.evaluation.baselines import BASELINES, baseline, shifted
from service.evaluation.candidates import never
from service.evaluation.expected import COST, Expected, TimeLeft
from service.evaluation.gates import correlation
from service.evaluation.grid_pointing_game import laid_out, mosaics_of, share_in_cell
from service.evaluation.insertion_deletion import (
    insertion_deletion,
    insertion_deletion_ends,
    insertion_deletion_inputs,
)
from service.evaluation.iou import ious
from service.evaluation.maps import Maps, placement_of
from service.evaluation.mass_inside import mass_inside
from service.evaluation.max_box_acc import box_hits
from service.evaluation.pointing_game import accepted, pointing_game
from service.evaluation.pxap import pixel_counts
from service.evaluation.road import road_combined, road_inputs
from service.evaluation.state import State
from service.evaluation.statistics import compare
from service.evaluation.subject import grey_of, probabilities_of
from service.imaging.sampling import resample
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from service.evaluation.asked import Asked
    from service.evaluation.grid_pointing_game import Mosaic
    from service.evaluation.pictures import Picture
    from service.evaluation.subject import Subject

__all__ = ["CHUNK", "Progress", "Run"]

CHUNK = 8  # pictures of a batch
_SURE, _ENOUGH_SURE = 0.9, 10
_MOSAIC_TRIAL = 12.0

Found = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Progress:
    """How far a run is, in forward passes; ``total`` is an estimate until the last round begins.

    ``left_s`` are the seconds that it should still take; None where nobody knows yet.
    """

    done: float
    total: float
    stage: str
    left_s: float | None


@dataclass(frozen=True)
class _Task:
    step: str
    stage: str
    compute: Callable[[], Found]
    rows: float = 1

    @property
    def kind(self) -> str:
        """What it is like: how long such steps take is learned together."""
        return self.step.partition("/")[0]

    @property
    def cost(self) -> float:
        """How much it computes, in forward passes."""
        return self.rows * COST.get(self.kind, 1)


class Run:
    """One evaluation.

    Args:
        subject: the model.
        pictures: all of them, at least one.
        asked: what is compared.
        state: what an earlier run of the same has found.
        clock: says what time it is, in seconds.
    """

    def __init__(
        self,
        subject: Subject,
        pictures: Sequence[Picture],
        asked: Asked,
        state: State | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.subject, self.pictures, self.asked = subject, pictures, asked
        self.state = state or State()
        self._clock, self._time = clock, TimeLeft()
        marked = sum(bool(picture.truths) for picture in pictures)
        self._expected = Expected(len(pictures), marked, len(asked.arms), asked.purposes)
        self._done: dict[str, float] = {}

    def steps(self) -> Iterator[Progress]:
        """Compute what is not known yet; tell after each step."""
        seen = set[str]()
        for task in self._tasks():
            if task.step in seen:  # it was done ahead of its turn
                continue
            seen.add(task.step)
            if task.step not in self.state:
                began = self._clock()
                self.state.put(task.step, task.compute())
                self._time.took(task.kind, task.cost, self._clock() - began)
            self._done[task.kind] = self._done.get(task.kind, 0.0) + task.cost
            yield self._progress(task.stage)
        done = sum(self._done.values())
        yield Progress(done, done, "done", 0.0)

    def _progress(self, stage: str) -> Progress:
        amounts = self._expected.amounts().items()
        left = {kind: max(0.0, amount - self._done.get(kind, 0.0)) for kind, amount in amounts}
        done = sum(self._done.values())
        return Progress(done, done + sum(left.values()), stage, self._time.of(left))

    def _learn(self, **known: Any) -> None:
        """Take note of what was guessed until now."""
        self._expected = replace(self._expected, **known)

    @cached_property
    def maps(self) -> Maps:
        """The maps, once the steps that make them are done."""
        return Maps(self.subject.info, self.pictures, self.asked.arms, self.state, CHUNK)

    @property
    def _chunks(self) -> list[range]:
        count = len(self.pictures)
        return [range(begin, min(begin + CHUNK, count)) for begin in range(0, count, CHUNK)]

    @cached_property
    def order(self) -> list[int]:
        """The pictures in the order in which rounds take them."""
        found: list[int] = self._rng("order").permutation(len(self.pictures)).tolist()
        return found

    def _rng(self, what: str, picture: int = 0) -> np.random.Generator:
        """Return what decides a picture's choices: the same for all candidates, so that they are compared fairly."""
        return np.random.default_rng([self.asked.seed, picture, *what.encode()])

    # -- which steps there are ---------------------------------------------------------------------------------------

    def _tasks(self) -> Iterator[_Task]:
        for index, chunk in enumerate(self._chunks):
            yield _Task(f"logits/{index}", "predicting", partial(self._logits, chunk), len(chunk))
        yield from self._ahead()
        for index, chunk in enumerate(self._chunks):
            yield _Task(f"maps/{index}", "explaining", partial(self._maps, chunk), len(chunk))
        self._learn(arms=len(self.maps.distinct))
        for draw in range(expected.HEADS):  # one may by chance look for a class where the model does
            pictures = self.order[: expected.HEAD_PICTURES]
            yield _Task(f"head/{draw}", "randomising the head", partial(self._head, draw, pictures), len(pictures))
        if "localisation" in self.asked.purposes:
            self._learn(marked=len(self.marked))
            for picture in self.marked:
                yield _Task(f"truth/{picture}", "comparing with what is marked", partial(self._truth, picture))
        if "class" in self.asked.purposes:
            yield from self._mosaic_tasks()
        if "faithfulness" in self.asked.purposes:
            yield from self._rounds()

    @property
    def marked(self) -> list[int]:
        """Pictures whose predicted class is theirs, as far as that is known, and is marked on them."""
        classes = self.maps.classes
        numbers = range(len(self.pictures))
        return [i for i in numbers if self.pictures[i].truth(classes[i]) is not None and self.maps.correct(i)]

    def _mosaic_tasks(self) -> Iterator[_Task]:
        if self.mosaics:
            yield _Task("any_size", "trying mosaics", self._any_size, _MOSAIC_TRIAL)
        pixels = 4 if self._large() else 1
        self._learn(mosaics=sum((1.0 + 2 * len(mosaic.scored)) * pixels for mosaic in self.mosaics))
        for index, mosaic in enumerate(self.mosaics):
            cost = (1.0 + 2 * len(mosaic.scored)) * pixels
            yield _Task(f"mosaic/{index}", "explaining mosaics", partial(self._mosaic, mosaic), cost)

    def _ahead(self) -> Iterator[_Task]:
        """Yield one step of each kind that takes most of the time, so that it is known early how long they take."""
        if "faithfulness" in self.asked.purposes:
            yield self._ends_of(self.order[0])
            for metric in ("road", "insertion_deletion"):
                yield from self._perturbed(metric, BASELINES[:1], self.order[:1])

    def _rounds(self) -> Iterator[_Task]:
        """Yield the steps that take pixels away, round by round."""
        arms = self.maps.distinct
        if len(arms) > expected.KEPT:
            yield from self._perturbed("road", [f"a{arm}" for arm in arms], self.order[: expected.FIRST])
        kept, second = self.kept(), self.order[: expected.SECOND]
        self._learn(kept=len(kept))
        yield from map(self._ends_of, second)
        for metric in ("road", "insertion_deletion"):
            yield from self._perturbed(metric, [*(f"a{arm}" for arm in kept), *BASELINES], second)
        yield from self._perturbed("road", [f"s{arm}" for arm in kept], second)
        rest = self.order[expected.SECOND : expected.MOST]
        if rest:
            yield from map(self._ends_of, rest)
            finalists = self.finalists()
            self._learn(finalists=len(finalists))
            for metric in ("road", "insertion_deletion"):
                yield from self._perturbed(metric, [f"a{arm}" for arm in finalists], rest)

    def _ends_of(self, picture: int) -> _Task:
        return _Task(f"ends/{picture}", "taking pixels away", partial(self._ends, picture))

    def _perturbed(self, metric: str, whose: Sequence[str], pictures: Sequence[int]) -> Iterator[_Task]:
        compute = self._road if metric == "road" else self._insertion_deletion
        for picture in pictures:
            for who in whose:
                step = f"{metric}/{who}/{picture}"
                yield _Task(step, "taking pixels away", partial(compute, who, picture))

    def kept(self) -> list[int]:
        """The candidates that are left after the first round, the default layer's always among them."""
        arms = self.maps.distinct
        if len(arms) <= expected.KEPT:
            return arms
        allowed = [arm for arm in arms if never(self.subject.info, self.asked.arms[arm]) is None] or arms
        first = self.order[: expected.FIRST]
        means = {arm: float(np.nanmean(self.perturbed("road", f"a{arm}")[first])) for arm in allowed}
        best = sorted(allowed, key=lambda arm: -means[arm])[: expected.KEPT]
        return sorted({*best, *self._defaults()})

    def _defaults(self) -> list[int]:
        default = self.subject.info.default_layer
        return [arm for arm in self.maps.distinct if self.asked.arms[arm].layer == default][:1]

    def finalists(self) -> list[int]:
        """The candidates that tie after the second round, and the default layer's."""
        kept = [arm for arm in self.kept() if never(self.subject.info, self.asked.arms[arm]) is None] or self.kept()
        second = self.order[: expected.SECOND]
        scores = [sum(self.perturbed(name, f"a{arm}")[second] for name in PURPOSES["faithfulness"]) for arm in kept]
        ties = compare(np.stack(scores), self.asked.seed).ties
        return sorted({*(kept[index] for index in ties), *self._defaults()})

    # -- what a step computes ----------------------------------------------------------------------------------------

    def _pixels(self, pictures: Sequence[int]) -> NDArray[np.uint8]:
        return np.stack([self.pictures[index].pixels for index in pictures])

    def _logits(self, pictures: Sequence[int]) -> Found:
        return {"logits": self.subject.logits(self._pixels(pictures))}

    def _maps(self, pictures: Sequence[int]) -> Found:
        classes = self.maps.ranking[list(pictures)].tolist()
        found = self.subject.maps(self._pixels(pictures), classes, self.asked.arms)
        return {f"a{arm}": values for arm, values in enumerate(found)}

    def _head(self, draw: int, pictures: Sequence[int]) -> Found:
        """Correlate maps with those of a model with a random head: (arms, pictures), NaN where there is none."""
        unknown = {"correlation": np.full((len(self.asked.arms), len(pictures)), np.nan)}
        other = self.subject.with_random_head(self.asked.seed + draw)
        if other is None:
            return unknown
        classes = [[self.maps.classes[index]] for index in pictures]
        try:
            found = other.maps(self._pixels(pictures), classes, self.asked.arms)
        except (ModelOutputError, MethodNotApplicable):
            return unknown
        rows = [
            [correlation(self.maps.raw(arm, index), values[row, 0]) for row, index in enumerate(pictures)]
            for arm, values in enumerate(found)
        ]
        return {"correlation": np.array(rows)}

    def whose(self, *, shifts: bool) -> list[str]:
        """All that is measured: candidates ``a3``, baselines, and with ``shifts`` shifted maps of candidates ``s3``."""
        arms = self.maps.distinct
        return [*(f"a{arm}" for arm in arms), *BASELINES, *(f"s{arm}" for arm in arms if shifts)]

    def evidence(self, who: str, picture: int) -> NDArray[np.float32]:
        """Return the map (height, width) of ``a3``, ``s3`` or a baseline at the model's input."""
        if who in BASELINES:
            return baseline(who, self.pictures[picture].pixels, self._rng(who, picture))
        values = self.maps.at_input(int(who[1:]), picture)
        return shifted(values, self._rng("shift", picture)) if who[0] == "s" else values

    def _truth(self, picture: int) -> Found:
        shown = self.pictures[picture]
        truth = shown.truth(self.maps.classes[picture])
        assert truth is not None
        from service.evaluation.pictures import Samples  # noqa: PLC0415

        samples, accepting = Samples.of(shown.geometry), accepted(truth.mask, truth.tolerance)
        spec = self.subject.info.preprocess
        own = Placement.stretched(spec.height, spec.width, spec.height, spec.width)
        rows: dict[str, list[Any]] = {"pointing_game": [], "mass_inside": [], "iou": [], "max_box_acc": [], "pxap": []}
        for who in self.whose(shifts=True):
            values = np.maximum(samples.read(self.evidence(who, picture), own, shown.geometry), 0)
            rows["pointing_game"].append(pointing_game(values, accepting))
            rows["mass_inside"].append(mass_inside(values, truth.mask))
            rows["iou"].append(ious(values, truth.mask))
            rows["max_box_acc"].append(box_hits(values, truth.boxes))
            rows["pxap"].append(pixel_counts(values, truth.mask))
        return {name: np.array(values) for name, values in rows.items()}

    @cached_property
    def mosaics(self) -> list[Mosaic]:
        """The mosaics, of pictures that the model is sure of and right about where there are enough of them."""
        sure = [i for i in self.order if self.maps.correct(i) and self.maps.confidence(i) >= _SURE]
        chosen = (sure if len(sure) >= _ENOUGH_SURE else self.order)[: expected.MOSAIC_PICTURES]
        classes = [self.maps.classes[index] for index in chosen]
        laid = mosaics_of(classes, expected.MOSAIC_ROUNDS, self._rng("mosaics"))
        return [type(each)(tuple(chosen[index] for index in each.pictures), each.scored) for each in laid]

    def _any_size(self) -> Found:
        spec = self.subject.info.preprocess
        return {"any_size": np.array(self.subject.takes(2 * spec.height, 2 * spec.width))}

    def _large(self) -> bool:
        return "any_size" in self.state and bool(self.state["any_size"]["any_size"])

    def _mosaic(self, mosaic: Mosaic) -> Found:
        """Return the share in each scored cell, (whose, cells); shifted maps are not among them."""
        shown = laid_out(self._pixels(mosaic.pictures))
        if not self._large():
            height, width, channels = shown.shape
            shown = shown.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3)).astype(np.uint8)
        classes = [self.maps.classes[mosaic.pictures[cell]] for cell in mosaic.scored]
        arms = [self.asked.arms[arm] for arm in self.maps.distinct]
        found = self.subject.maps(shown[None], [classes], arms)
        rows = [
            [share_in_cell(self._spread(arm, values[0, k], shown), cell) for k, cell in enumerate(mosaic.scored)]
            for arm, values in zip(arms, found, strict=True)
        ]
        for name in BASELINES:
            values = baseline(name, shown, self._rng(name, mosaic.pictures[0]))
            rows.append([share_in_cell(values, cell) for cell in mosaic.scored])
        return {"share": np.array(rows)}

    def _spread(self, arm: Any, values: NDArray[np.float32], shown: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return a mosaic's map at every other pixel."""
        height, width = shown.shape[:2]
        placement = placement_of(self.subject.info, arm, values.shape, height, width)
        xs, ys = placement.x.to_cells(np.arange(1.0, width, 2)), placement.y.to_cells(np.arange(1.0, height, 2))
        return resample(values, xs, ys)

    def _probabilities(self, shown: NDArray[np.uint8], picture: int) -> NDArray[np.float64]:
        """Return the probabilities of the picture's predicted class for what is shown of it."""
        logits = np.concatenate([self.subject.logits(shown[part]) for part in _slices(len(shown), CHUNK)])
        return probabilities_of(logits, self.subject.info.activation)[:, self.maps.classes[picture]]

    def _road(self, who: str, picture: int) -> Found:
        pixels = self.pictures[picture].pixels
        shown = road_inputs(pixels, self.evidence(who, picture), self._rng("road", picture))
        return {"score": np.array(road_combined(self._probabilities(shown, picture)))}

    def _ends(self, picture: int) -> Found:
        ends = insertion_deletion_ends(self.pictures[picture].pixels, grey_of(self.subject.info))
        return {"probabilities": self._probabilities(ends, picture)}

    def _insertion_deletion(self, who: str, picture: int) -> Found:
        ends = insertion_deletion_ends(self.pictures[picture].pixels, grey_of(self.subject.info))
        shown = insertion_deletion_inputs(ends, self.evidence(who, picture), self._rng("insertion", picture))
        known = self.state[f"ends/{picture}"]["probabilities"]
        return {"score": np.array(insertion_deletion(known, self._probabilities(shown, picture)))}

    # -- what was found ----------------------------------------------------------------------------------------------

    def perturbed(self, metric: str, who: str) -> NDArray[np.float64]:
        """Return a score per picture (n,), NaN where it was not measured."""
        steps = (f"{metric}/{who}/{picture}" for picture in range(len(self.pictures)))
        return np.array([float(self.state[step]["score"]) if step in self.state else np.nan for step in steps])

    def found(self, step: str) -> Mapping[str, NDArray[Any]] | None:
        """Return what a step has found; None where it was not done."""
        return self.state.get(step)


def _slices(count: int, size: int) -> list[slice]:
    return [slice(begin, begin + size) for begin in range(0, count, size)]
