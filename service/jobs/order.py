"""What the process of an evaluation is told. Needs no torch to import."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  # pydantic reads the annotations

from service.evaluation.asked import Purpose  # noqa: TC001
from service.models.order import LoadOrder

__all__ = ["Order"]


class Order(LoadOrder):
    """One evaluation.

    Attributes:
        digest: that the model must have.
        folder: where the pictures lie, and where everything that is found goes.
        layers: to compare.
        methods: to compare.
        purposes: what maps are wanted for.
        seed: what all chance follows from.
        seconds: that earlier processes have spent on it.
    """

    digest: str
    folder: Path
    layers: tuple[str, ...]
    methods: tuple[str, ...]
    purposes: tuple[Purpose, ...]
    seed: int
    seconds: float
