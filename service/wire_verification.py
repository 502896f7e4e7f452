"""How the native API words what came out when a map was put to the proof."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.vocabulary import GateMissing, Undecided, Verdict

__all__ = ["ProofControls", "ProofGates", "Verification"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProofControls(_Answer):
    """How far hiding the same shape in other places lowers the target's logit."""

    median: float
    max: float
    count: int = Field(description="Places: 19, or as many as fit.")


class ProofGates(_Answer):
    """Whether the map is another one where it should be; null where that cannot be had, and `missing` says why."""

    class_differs: bool | None = Field(description="For the most probable other class.")
    random_head_differs: bool | None = Field(
        description="Of the same network, with the weights of its last layer in a random order."
    )
    missing: dict[Literal["class_differs", "random_head_differs"], GateMissing] = Field(
        {},
        description="Of each that is null, why: the map shows nothing (`empty`), or nothing that speaks for the "
        "class (`nothing_to_hide`), there is no other class (`no_other_class`), the last layer is not known or the "
        "map is of a layer behind it (`head_unknown`), the method is of the whole network (`whole_network`), or more "
        "passes would be needed than a proof may take (`many_passes`).",
    )


class Verification(_Answer):
    """A map put to the proof: what it calls important is hidden, and the same shape in other places (`verify`)."""

    drop: float | None = Field(
        description="By how much the target's logit drops; log-odds where the model gives probabilities. Null where "
        "the map shows nothing to hide."
    )
    drop_probability: float | None = Field(description="By how much its probability drops, likewise.")
    controls: ProofControls | None
    p: float | None = Field(
        description="Share of the 20 places, this one included, with at least this drop; null with fewer of them."
    )
    verdict: Verdict = Field(
        description="`supported`: p is 0.05, the drop 0.1 or more, and the probability does not rise. `undecided`: "
        "`reason` says why."
    )
    reason: Undecided | None = Field(
        None,
        description="Of an undecided one: the map is empty, or nothing that it shows in the picture speaks for the "
        "class, or the shape fits in fewer than 19 other places.",
    )
    gates: ProofGates
    passes: int = Field(description="Forward passes of the model for it; those that it shares with others included.")
    text: str = Field(description="All of it in a sentence.")
