"""Who asks for an evaluation, and for what.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from service.evaluation.asked import Purpose
    from service.jobs.job import Facts

__all__ = ["Viewer", "Wanted"]


class Viewer(NamedTuple):
    """Who asks: the name of an API key, or None; and whether evaluations of others may be seen."""

    owner: str | None
    sees_all: bool

    def sees(self, facts: Facts) -> bool:
        """Whether an evaluation is shown."""
        return self.sees_all or facts.owner == self.owner


@dataclass(frozen=True)
class Wanted:
    """What an evaluation is asked for.

    Attributes:
        model: its name or an alias; the default one if None.
        layers: to compare; the recommended ones and one of each stage where there are none.
        methods: to compare.
        purposes: what maps are wanted for.
        seed: what all chance follows from.
    """

    model: str | None
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    purposes: tuple[Purpose, ...]
    seed: int
