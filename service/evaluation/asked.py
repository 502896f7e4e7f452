"""What an evaluation is asked: which layers and methods are compared, for what purpose, with which seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "PURPOSES", "Arm", "Asked", "Metric", "Purpose"]

Purpose = Literal["class", "localisation", "faithfulness"]
"""What a map is wanted for: which evidence speaks for this class and not another; where exactly the object is; what the
model really uses."""

Metric = Literal[
    "pointing_game",
    "mass_inside",
    "iou",
    "max_box_acc",
    "pxap",
    "road",
    "insertion_deletion",
    "grid_pointing_game",
]

METRICS: dict[Metric, str] = {
    "pointing_game": "share of maxima on the object",
    "mass_inside": "share of the map on the object",
    "iou": "overlap with the object at the best threshold",
    "max_box_acc": "boxes found (MaxBoxAccV2)",
    "pxap": "average precision of the pixels (PxAP)",
    "road": "ROAD, combined",
    "insertion_deletion": "insertion minus deletion",
    "grid_pointing_game": "share in the own cell of a mosaic",
}
"""What each is, in a few words."""

PURPOSES: dict[Purpose, tuple[Metric, ...]] = {
    "class": ("grid_pointing_game",),
    "localisation": ("pointing_game", "mass_inside", "iou", "max_box_acc"),
    "faithfulness": ("road", "insertion_deletion"),
}
"""What candidates are ranked by: the mean of those of the metrics that could be measured."""


@dataclass(frozen=True, order=True)
class Arm:
    """A candidate: a layer and a method."""

    layer: str
    method: str

    def __str__(self) -> str:
        return f"{self.layer} / {self.method}"


@dataclass(frozen=True)
class Asked:
    """An evaluation.

    Attributes:
        arms: the candidates.
        purposes: what maps are wanted for.
        seed: what every choice by chance follows from.
    """

    arms: tuple[Arm, ...]
    purposes: tuple[Purpose, ...] = tuple(PURPOSES)
    seed: int = 0
