"""What is asked of evaluations over HTTP, and what is answered. Field names are a firm contract."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from service.vocabulary import EvaluationState

__all__ = [
    "Evaluation",
    "EvaluationBaseline",
    "EvaluationList",
    "EvaluationOptions",
    "EvaluationResult",
    "EvaluationRow",
    "EvaluationWarning",
    "Recommendation",
    "ScoreInterval",
    "SkippedPicture",
]

_Purpose = Literal["class", "localisation", "faithfulness"]
_ANY_PURPOSE: tuple[_Purpose, ...] = ("class", "localisation", "faithfulness")


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


_Name = Annotated[str, Field(min_length=1, max_length=200)]


class EvaluationOptions(BaseModel):
    """What is compared, and on which model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, max_length=200, description="The model's name; the default one if left out.")
    layer: Annotated[tuple[_Name, ...], BeforeValidator(_several)] = Field(
        (), max_length=64, description="Layers to compare; the recommended ones and one per stage if left out."
    )
    method: Annotated[tuple[_Name, ...], BeforeValidator(_several)] = Field(
        ("gradcam",), min_length=1, max_length=64, description="Methods to compare."
    )
    purpose: Annotated[tuple[_Purpose, ...], BeforeValidator(_several)] = Field(
        _ANY_PURPOSE,
        min_length=1,
        max_length=3,
        description="What maps are wanted for: evidence for a class and not another, where the object is, what the "
        "model really uses.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="What all chance follows from.")


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class SkippedPicture(_Answer):
    """A file that was sent and is left out."""

    name: str = Field(description="Under which it was sent.")
    code: str
    text: str


class ScoreInterval(_Answer):
    """A metric over pictures: its mean, and the bounds of the 95 % interval where there are enough of them."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = Field(description="Pictures that it could be measured on.")


class EvaluationRow(_Answer):
    """A candidate."""

    layer: str
    method: str
    metrics: dict[str, ScoreInterval] = Field(description="By name; those that could be measured.")
    gates: dict[str, Any] = Field(description="Tests that its maps must pass to be recommended.")
    excluded: str | None = Field(None, description="Why it is never recommended.")
    same_as: str | None = Field(None, description="A layer whose maps are the same.")


class Recommendation(_Answer):
    """Which candidate is best for a purpose, as far as these pictures can tell."""

    purpose: str
    layer: str | None
    method: str | None
    ties: list[str] = Field(description="Candidates that cannot be told apart from the best.")
    text: str = Field(description="All of it in a sentence.")
    none_because: str | None = Field(description="Why none can be recommended.")
    images: int | None = Field(None, description="Pictures that it rests on.")


class EvaluationWarning(_Answer):
    """What looks wrong with the maps, the model or the pictures."""

    code: str
    text: str


class EvaluationBaseline(_Answer):
    """What a map that knows nothing scores."""

    name: str
    metrics: dict[str, ScoreInterval]


class EvaluationResult(_Answer):
    """What came out, as ``camserve evaluate --json`` writes it, too."""

    model_config = ConfigDict(extra="allow")

    images: int
    rows: list[EvaluationRow]
    recommendations: list[Recommendation]
    warnings: list[EvaluationWarning]
    baselines: list[EvaluationBaseline]


class Evaluation(_Answer):
    """An evaluation, and how far it is."""

    id: str
    state: EvaluationState
    progress: float = Field(description="Share that is done, 0 to 1.")
    eta_s: float | None = Field(description="Seconds that it should still take; null where nobody knows yet.")
    stage: str | None = Field(description="What is being done.")
    reason: str | None = Field(description="Why it failed.")
    model: str
    images: int = Field(description="Pictures that are evaluated.")
    created: float = Field(description="Unix time at which it was asked for.")
    ended: float | None = Field(description="Unix time at which it ended.")
    restarts: int = Field(description="How often its process was started again.")
    kept: bool = Field(description="Whether it outlasts a restart of the service.")
    note: str = Field(description="The same in words, and until when the result is there.")
    skipped: list[SkippedPicture] = Field([], description="Files that are left out; not told in lists and events.")
    result: EvaluationResult | None = Field(None, description="What came out, once it is done.")


class EvaluationList(_Answer):
    """The evaluations that this API key may see, oldest first, without their results and what was skipped."""

    evaluations: list[Evaluation]
