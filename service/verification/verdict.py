"""What comes out: how far the score drops, how far it drops elsewhere, and what that proves."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from service.verification.region import CONTROLS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from service.vocabulary import GateMissing, Undecided, Verdict

__all__ = ["Controls", "Drops", "Gates", "Verification", "sentence", "undecided"]

_LEAST_DROP = 0.1
"""Of the logit: what is less may be as large by chance as it likes, it changes nothing."""

_RISES = 1e-4
"""What a probability may rise by rounding."""


@dataclass(frozen=True)
class Controls:
    """What hiding the same shape elsewhere does to the score."""

    median: float
    max: float
    count: int


@dataclass(frozen=True)
class Gates:
    """Whether the map is another one where it should be; None where that cannot be had.

    Attributes:
        class_differs: for another class, the most probable one.
        random_head_differs: of the same network whose last layer has its weights in a random order.
        missing: why one cannot be had, by its name.
    """

    class_differs: bool | None = None
    random_head_differs: bool | None = None
    missing: Mapping[str, GateMissing] = field(default_factory=dict)


@dataclass(frozen=True)
class Verification:
    """The proof of one map.

    Attributes:
        drop: of the target's logit when what the map calls important is hidden; None where nothing was.
        drop_probability: of its probability, likewise.
        controls: the same for other places; None where there were none.
        p: share of the places, this one included, whose drop is at least this one's; None where there are too few.
        verdict: what that proves.
        reason: why it is undecided.
        gates: whether the map is another one where it should be.
        passes: forward passes of the model that were made for it; those that it shares with other maps count for each.
    """

    drop: float | None
    drop_probability: float | None
    controls: Controls | None
    p: float | None
    verdict: Verdict
    reason: Undecided | None
    gates: Gates
    passes: int


@dataclass(frozen=True)
class Drops:
    """How far the score drops where the map is hot, and elsewhere.

    Attributes:
        here: of the logit.
        probability: of the probability.
        elsewhere: of the logit, for each control.
        rounding: drops that differ by less are equal.
        alone: whether the score is the class's own, and not its difference from another's.
    """

    here: float
    probability: float
    elsewhere: Sequence[float]
    rounding: float = 0.0
    alone: bool = True

    @property
    def others_lose_more(self) -> bool:
        """Whether the class becomes more probable, though its logit drops: what is hidden spoke for others."""
        return self.alone and self.probability < -_RISES

    @property
    def p(self) -> float | None:
        """Share of the places whose drop is at least this one's, this one included; None with too few of them."""
        if len(self.elsewhere) < CONTROLS:
            return None
        return (1 + sum(drop >= self.here - self.rounding for drop in self.elsewhere)) / (1 + CONTROLS)

    def judged(self, gates: Gates, passes: int) -> Verification:
        """Return what the drops prove."""
        found = [float(drop) for drop in self.elsewhere]
        p = self.p
        proved = p == 1 / (1 + CONTROLS) and self.here >= _LEAST_DROP and not self.others_lose_more
        verdict: Verdict = "undecided" if p is None else "supported" if proved else "not_supported"
        return Verification(
            drop=float(self.here),
            drop_probability=float(self.probability),
            controls=Controls(median(found), max(found), len(found)) if found else None,
            p=p,
            verdict=verdict,
            reason="few_controls" if p is None else None,
            gates=gates,
            passes=passes,
        )


def undecided(reason: Literal["empty", "nothing_to_hide"]) -> Verification:
    """Return what can be said of a map that shows nothing, or nothing that speaks for the class."""
    gates = Gates(missing={"class_differs": reason, "random_head_differs": reason})
    return Verification(None, None, None, None, "undecided", reason, gates, 0)


def sentence(found: Verification, label: str) -> str:
    """Say what came out for the map of the class ``label``."""
    if found.reason == "nothing_to_hide":
        return (
            f"Undecided: nothing that the map shows in the picture speaks for {label!r}, so there is nothing to hide."
        )
    if found.drop is None:
        return "Undecided: the map shows nothing that could be hidden."
    changed = "lowers" if found.drop >= 0 else "raises"
    done = f"hiding what the map calls important {changed} the logit of {label!r} by {abs(found.drop):.2f}"
    if found.verdict == "undecided" or found.controls is None:
        fitting = 0 if found.controls is None else found.controls.count
        return f"Undecided: {done}, but the same shape fits in {fitting} other places only, and {CONTROLS} are needed."
    compared = f"at each of {CONTROLS} other places by {found.controls.max:.2f} at most"
    if found.verdict == "supported":
        return f"Supported: {done}, the same shape {compared}."
    if found.p == 1 / (1 + CONTROLS) and found.drop < _LEAST_DROP:
        return f"Not supported: {done}, which is more than elsewhere and yet all but nothing."
    if found.p == 1 / (1 + CONTROLS):
        return f"Not supported: {done}, and yet raises its probability, since other classes lose more."
    as_many = round((found.p or 0) * (1 + CONTROLS)) - 1
    return f"Not supported: {done}, and at {as_many} of {CONTROLS} other places the same shape does at least as much."
