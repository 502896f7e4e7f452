"""What the maps of all pictures show together: where they lie on average, by class, and which pictures' lie alike."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from service.evaluation.groups import groups_of
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.evaluation.groups import Group
    from service.evaluation.run import Run
    from service.evaluation.scores import Scores

__all__ = ["ClassMean", "Overview", "overview_of"]

_SIDE = 16  # of the grid on which maps are grouped
_MOST = 300  # pictures that are grouped
_LEAST = 3  # of a group that is warned of


@dataclass(frozen=True, eq=False)
class ClassMean:
    """Where the maps of a class lie on average.

    Attributes:
        label: the class, the predicted one.
        pictures: the numbers of its pictures.
        values: the mean map (h, w), each map's sum being 1; zero where all are dead.
        dead: how many of its maps say nothing of places; they are not in the mean.
    """

    label: int
    pictures: tuple[int, ...]
    values: NDArray[np.float64]
    dead: int


@dataclass(frozen=True, eq=False)
class Overview:
    """The maps of one candidate.

    Attributes:
        arm: the candidate.
        means: by class, those of most pictures first.
        groups: pictures whose maps lie alike, the largest group first; their members are numbers of pictures.
        shared: those of them to be warned of: they share a place that is not known to be the object's.
    """

    arm: int
    means: list[ClassMean]
    groups: list[Group]
    shared: list[Group]


def overview_of(scores: Scores, arm: int) -> Overview:
    """Look at a candidate's maps of all pictures of a run that is done."""
    groups = _groups(scores.run, arm)
    shared = [group for group in groups if group.beyond_chance and _elsewhere(scores, arm, group)]
    return Overview(arm, _means(scores.run, arm), groups, shared)


def _elsewhere(scores: Scores, arm: int, group: Group) -> bool:
    """Whether a group's maps lie outside the objects, or, where too few of them are marked, beside the middle."""
    if len(group.members) < _LEAST:
        return False
    hits = scores.of("pointing_game", f"a{arm}")
    marked = [picture for picture in group.members if not np.isnan(hits[picture])]
    if 2 * len(marked) < len(group.members):
        return group.beside_the_middle
    return 2 * len(set(scores.outside(arm)).intersection(marked)) >= len(marked)


def _means(run: Run, arm: int) -> list[ClassMean]:
    pictures: dict[int, list[int]] = defaultdict(list)
    for picture, label in enumerate(run.maps.classes):
        pictures[label].append(picture)
    found = []
    for label, members in pictures.items():
        alive = [run.maps.raw(arm, picture) for picture in members if not run.maps.is_dead(arm, picture)]
        shares = [each / each.sum(dtype=np.float64) for each in alive]
        mean = np.mean(shares, axis=0) if shares else np.zeros_like(run.maps.raw(arm, members[0]), np.float64)
        found.append(ClassMean(label, tuple(members), mean, len(members) - len(alive)))
    return sorted(found, key=lambda each: (-len(each.pictures), each.label))


def _groups(run: Run, arm: int) -> list[Group]:
    chosen = sorted(picture for picture in run.order[:_MOST] if not run.maps.is_dead(arm, picture))
    coarse = [(picture, _coarse(run, arm, picture)) for picture in chosen]
    kept = [(picture, values) for picture, values in coarse if values.any()]
    if not kept:
        return []
    groups = groups_of(np.stack([values for _, values in kept]), run.asked.seed)
    return [replace(group, members=tuple(kept[member][0] for member in group.members)) for group in groups]


def _coarse(run: Run, arm: int, picture: int) -> NDArray[np.float32]:
    """Return a map at 16 × 16 places of the model's input."""
    values, spec = run.maps.raw(arm, picture), run.subject.info.preprocess
    placement = run.maps.placement(arm, values.shape)
    xs, ys = ((np.arange(_SIDE) + 0.5) * size / _SIDE for size in (spec.width, spec.height))
    return resample(values, placement.x.to_cells(xs), placement.y.to_cells(ys))
