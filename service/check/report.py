"""What a check of a model has found: a row per step. Needs no torch to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from service.vocabulary import LoadCheck

__all__ = ["STEPS", "Report", "Result", "Row", "Step", "complete", "worst"]

Result = Literal["ok", "skipped", "warning", "failed"]
"""How a step came out; from good to bad."""

Step = LoadCheck | Literal["reference", "methods", "time", "picture"]

STEPS: dict[Step, str] = {
    "model": "found and read",
    "labels": "classes and labels",
    "preprocessing": "preprocessing",
    "reference": "against its own library",
    "layers": "layers",
    "batch": "batch independence",
    "determinism": "determinism",
    "gradient": "backward pass",
    "methods": "methods",
    "time": "time and memory",
    "picture": "a picture explained",
}
"""All steps in the order in which they are listed, each with its title."""


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        step: which.
        result: how it came out.
        found: what was found or measured.
        notes: what is wrong and what to do about it, in sentences.
    """

    step: Step
    result: Result
    found: str = ""
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "step": self.step,
            "title": STEPS[self.step],
            "result": self.result,
            "found": self.found,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Report:
    """A checked model: its rows in the order of ``STEPS``, and the seconds that it took."""

    name: str
    architecture: str
    rows: tuple[Row, ...]
    seconds: float

    @property
    def result(self) -> Result:
        """The worst that came out; what had to be skipped is no fault."""
        found = worst([row.result for row in self.rows])
        return "ok" if found == "skipped" else found

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "result": self.result,
            "seconds": round(self.seconds, 2),
            "steps": [row.as_json() for row in self.rows],
        }


def worst(results: list[Result]) -> Result:
    """Return the worst of some results; ok where there are none."""
    order = get_args(Result)
    return max(results, key=order.index, default="ok")


def complete(rows: dict[Step, Row]) -> tuple[Row, ...]:
    """Return a row for every step; those that were not come to are skipped."""
    return tuple(rows.get(step, Row(step, "skipped", "not reached")) for step in STEPS)
