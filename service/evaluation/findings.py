"""What somebody should know before trusting the scores, or the model: warnings, each with a code."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.evaluation.recommendation import LEAST_PICTURES, arm_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from service.evaluation.overview import Overview
    from service.evaluation.passing import Gates
    from service.evaluation.recommendation import Recommendation
    from service.evaluation.scores import Scores

__all__ = ["Finding", "findings_of", "reference", "words_for"]

_OF_A_CLASS, _OF_ALL = 0.5, 0.25  # share of pictures whose maps lie outside before it is said
_LEAST = 3  # pictures of a class
_OFTEN = 0.2
_NAMED = 3  # classes of a group
_MIDDLE = 1 / 3, 2 / 3


@dataclass(frozen=True)
class Finding:
    """A warning: a stable ``code``, and a sentence."""

    code: str
    text: str


def findings_of(scores: Scores, gates: Mapping[int, Gates], overview: Overview) -> list[Finding]:
    """Return the warnings of an evaluation, the gravest first."""
    return [
        *_few(scores),
        *_outside(scores, overview.arm),
        *_shared_places(scores, overview),
        *_same_regions(scores, gates),
        *_padding(scores, gates),
        *_dead(scores, gates),
        *_wrong(scores),
    ]


def _few(scores: Scores) -> Iterator[Finding]:
    count = len(scores.run.pictures)
    if count < LEAST_PICTURES:
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        yield Finding("few_pictures", f"With {pictures} nothing can be told apart: {LEAST_PICTURES} are the least.")


def _shared_places(scores: Scores, overview: Overview) -> Iterator[Finding]:
    run, name = scores.run, arm_name(scores.run.asked.arms, overview.arm)
    labels, classes = run.subject.info.labels, run.maps.classes
    hits, away = scores.of("pointing_game", f"a{overview.arm}"), set(scores.outside(overview.arm))
    for group in overview.shared:
        predicted = Counter(labels[classes[picture]] for picture in group.members).most_common(_NAMED)
        told = ", ".join(f"{label!r} ({count})" for label, count in predicted)
        more = len({classes[picture] for picture in group.members}) - len(predicted)
        marked = [picture for picture in group.members if not np.isnan(hits[picture])]
        count = len(away.intersection(marked))
        where = f", outside the annotated object in {count} of the {len(marked)} that are marked" if marked else ""
        yield Finding(
            "shared_place",
            f"Shared place: the maps of {len(group.members)} pictures ({name}) lie alike, {words_for(group.place)}"
            f"{where}; of maps put elsewhere by chance no so large a group is so alike. Predicted: {told}"
            f"{f' and {more} more' if more > 0 else ''}. Look at what these pictures show there: it may be a shortcut.",
        )


def words_for(place: tuple[float, float]) -> str:
    """Return words for a place, given as x and y in shares of what the model saw."""
    x, y = place
    across = "left" if x < _MIDDLE[0] else "right" if x > _MIDDLE[1] else ""
    down = "top" if y < _MIDDLE[0] else "bottom" if y > _MIDDLE[1] else ""
    if across and down:
        return f"in the {down} {across} corner"
    return f"at the {down or across}" if down or across else "in the middle"


def _outside(scores: Scores, arm: int) -> Iterator[Finding]:
    if "pointing_game" not in scores.metrics:
        return
    run, name = scores.run, arm_name(scores.run.asked.arms, arm)
    labels, classes = run.subject.info.labels, run.maps.classes
    away = set(scores.outside(arm))
    marked = np.flatnonzero(~np.isnan(scores.of("pointing_game", f"a{arm}"))).tolist()
    by_class: dict[int, list[int]] = defaultdict(list)
    for picture in marked:
        by_class[classes[picture]].append(picture)
    for label, pictures in by_class.items():
        count = len(away.intersection(pictures))
        if len(pictures) >= _LEAST and count >= _OF_A_CLASS * len(pictures):
            yield Finding(
                "map_outside_object",
                f"Map outside the annotated object: for {labels[label]!r}, in {count} of {len(pictures)} pictures "
                f"({name}). If the map is faithful, the model decides by something else there: look at the pictures.",
            )
    if len(away) >= _OF_ALL * len(marked) > 0:
        yield Finding(
            "map_outside_object",
            f"Map outside the annotated object: in {len(away)} of {len(marked)} marked pictures ({name}).",
        )


def reference(scores: Scores, recommendations: Sequence[Recommendation]) -> int:
    """Return the candidate whose maps are looked at: the recommended one that says most of what the model uses."""
    by_purpose = {each.purpose: each.arm for each in recommendations}
    for purpose in ("faithfulness", "class", "localisation"):
        if (arm := by_purpose.get(purpose)) is not None:
            return arm
    arms, default = scores.run.asked.arms, scores.run.subject.info.default_layer
    distinct = scores.run.maps.distinct
    return next((arm for arm in distinct if arms[arm].layer == default), distinct[0])


def _same_regions(scores: Scores, gates: Mapping[int, Gates]) -> Iterator[Finding]:
    found = [arm_name(scores.run.asked.arms, arm) for arm, each in gates.items() if each.class_sensitive is False]
    if found:
        yield Finding("same_regions", f"Same regions for every class: {', '.join(found)}.")


def _padding(scores: Scores, gates: Mapping[int, Gates]) -> Iterator[Finding]:
    found = [arm_name(scores.run.asked.arms, arm) for arm, each in gates.items() if each.border > _OFTEN]
    if found:
        yield Finding(
            "padding_artefact",
            f"Padding artefact: the maps lie in one border row or column ({', '.join(found)}). That is the network's "
            "padding, not the picture.",
        )


def _dead(scores: Scores, gates: Mapping[int, Gates]) -> Iterator[Finding]:
    found = [
        f"{arm_name(scores.run.asked.arms, arm)} ({each.dead:.0%})" for arm, each in gates.items() if each.dead > _OFTEN
    ]
    if found:
        yield Finding("dead_maps", f"Maps that say nothing of places: {', '.join(found)}.")


def _wrong(scores: Scores) -> Iterator[Finding]:
    run = scores.run
    named = [i for i, picture in enumerate(run.pictures) if picture.named is not None]
    wrong = [i for i in named if not run.maps.correct(i)]
    if wrong:
        yield Finding(
            "wrong_predictions",
            f"{len(wrong)} of {len(named)} pictures are predicted to be something else than their folder says. Their "
            "predicted class is explained; they are left out where maps are compared with what is marked.",
        )
