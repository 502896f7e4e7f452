"""Which candidate is recommended for a purpose, which tie with it, or why none can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.evaluation.statistics import compare

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.evaluation.asked import Arm, Purpose
    from service.evaluation.passing import Gates
    from service.evaluation.scores import Scores
    from service.evaluation.statistics import Comparison

__all__ = ["LEAST_PICTURES", "Recommendation", "arm_name", "recommend"]

LEAST_PICTURES = 10

_FOR: dict[Purpose, str] = {
    "class": "showing what speaks for the class",
    "localisation": "showing where the object is",
    "faithfulness": "showing what the model uses",
}


@dataclass(frozen=True)
class Recommendation:
    """What is recommended for one purpose.

    Attributes:
        purpose: what maps are wanted for.
        arm: the recommended candidate; None where none can be.
        ties: the candidates that cannot be told from the best, the recommended one first.
        text: all of it in a sentence.
        none_because: why none can be recommended; None where one is.
        pictures: how many it was decided on.
        compared: the candidates that were compared, by falling mean.
        behind: for each of these, what it lacks (mean, with simultaneous bounds).
        best_share: for each of these, in what share of the resamples it was the best.
    """

    purpose: Purpose
    arm: int | None
    ties: tuple[int, ...]
    text: str
    none_because: str | None
    pictures: int = 0
    compared: tuple[int, ...] = ()
    behind: tuple[tuple[float, float, float], ...] = ()
    best_share: tuple[float, ...] = ()


def recommend(scores: Scores, gates: Mapping[int, Gates], purpose: Purpose) -> Recommendation:
    """Recommend a candidate for a purpose.

    Args:
        scores: of the run.
        gates: of each candidate that stands for itself.
        purpose: what maps are wanted for.
    """
    if not scores.ranked_by(purpose):
        return _none(purpose, _not_measured(scores, purpose))
    arms = list(gates)
    values = {arm: scores.for_purpose(purpose, f"a{arm}") for arm in arms}
    most = max(int((~np.isnan(each)).sum()) for each in values.values())
    if most < LEAST_PICTURES:
        return _none(purpose, f"{_pictures(most)} too few to compare layers: {LEAST_PICTURES} are the least", most)
    # Those that fell out in an earlier round were measured on fewer pictures.
    whole = [arm for arm in arms if (~np.isnan(values[arm])).sum() == most]
    passing = [arm for arm in whole if gates[arm].missing(purpose) is None]
    if not passing:
        return _none(purpose, _why_none(scores, gates, purpose, whole), most)
    common = ~np.isnan([values[arm] for arm in passing]).any(axis=0)
    found = compare(np.stack([values[arm][common] for arm in passing]), scores.run.asked.seed)
    return _recommended(scores, purpose, passing, found, int(common.sum()))


def _pictures(count: int) -> str:
    return f"{count} picture{' is' if count == 1 else 's are'}"


def _none(purpose: Purpose, reason: str, pictures: int = 0) -> Recommendation:
    text = f"No layer can be recommended for {_FOR[purpose]}: {reason}."
    return Recommendation(purpose, None, (), text, reason, pictures)


def _not_measured(scores: Scores, purpose: Purpose) -> str:
    if purpose == "localisation":
        if any(picture.truths for picture in scores.run.pictures):
            return "no picture is left that shows, within the model's view, a marked object of the predicted class"
        return "nothing is marked on the pictures; give boxes or masks"
    if purpose == "class":
        return "all pictures are predicted to be of one class; mosaics need two"
    return "it was not asked for"


def _why_none(scores: Scores, gates: Mapping[int, Gates], purpose: Purpose, arms: Sequence[int]) -> str:
    """Say what the candidate with the highest mean does not pass; one that could be recommended before others."""
    ranked = sorted(arms, key=lambda arm: -float(np.nanmean(scores.for_purpose(purpose, f"a{arm}"))))
    allowed = [arm for arm in ranked if gates[arm].excluded is None] or ranked
    arm = scores.run.asked.arms[allowed[0]]
    return f"the one with the highest mean is {arm.layer} with {arm.method}, and {gates[allowed[0]].missing(purpose)}"


def _recommended(
    scores: Scores, purpose: Purpose, passing: Sequence[int], found: Comparison, pictures: int
) -> Recommendation:
    ties = [passing[index] for index in found.ties]
    chosen = min(ties, key=lambda arm: _preference(scores, arm))
    order = sorted(range(len(passing)), key=lambda index: found.behind[index][0])
    ties = [chosen, *(arm for arm in ties if arm != chosen)]
    return Recommendation(
        purpose,
        chosen,
        tuple(ties),
        _worded(scores, purpose, ties, pictures, len(passing)),
        None,
        pictures,
        tuple(passing[index] for index in order),
        tuple(found.behind[index] for index in order),
        tuple(found.best_share[index] for index in order),
    )


def _preference(scores: Scores, arm: int) -> tuple[bool, bool, float, int, float]:
    """Among those that tie: the default, blocks, a greater share in mosaics, deeper layers, cheaper methods."""
    info, candidate = scores.run.subject.info, scores.run.asked.arms[arm]
    layer, method = info.layer(candidate.layer), METHODS[candidate.method]
    share = scores.of("grid_pointing_game", f"a{arm}")
    mean = float(np.nanmean(share)) if (~np.isnan(share)).any() else 0.0
    cost = method.forwards if method.forwards is not None else np.inf
    return layer.name != info.default_layer, layer.kind != "block", -round(mean, 2), -layer.order, cost


def _worded(scores: Scores, purpose: Purpose, ties: Sequence[int], pictures: int, compared: int) -> str:
    chosen, arms, default = ties[0], scores.run.asked.arms, scores.run.subject.info.default_layer
    arm = arms[chosen]
    one_method = len({each.method for each in arms}) == 1
    named = arm.layer if one_method else f"{arm.layer} with {arm.method}"
    if compared == 1:
        return f"For {_FOR[purpose]}, use {named}: it alone passes the gates ({pictures} pictures)."
    if len(ties) == 1:
        return (
            f"For {_FOR[purpose]}, use {named}: it is better than every other that passes the gates "
            f"({pictures} pictures)."
        )
    others = _listed([arms[other].layer if one_method else str(arms[other]) for other in ties[1:]])
    why = "it is the model's default, and as good as any" if arm.layer == default else "it is as good as any"
    return (
        f"For {_FOR[purpose]}, use {named}: {why} of the {len(ties)} that {pictures} pictures cannot tell apart "
        f"(besides it {others})."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def arm_name(arms: Sequence[Arm], arm: int) -> str:
    """Return a candidate's name, without the method where there is only one."""
    one_method = len({each.method for each in arms}) == 1
    return arms[arm].layer if one_method else str(arms[arm])
