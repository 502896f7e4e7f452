"""How much an evaluation computes, in forward passes of the model, estimated before it begins.

Runs in the front process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.engine.amount import amount
from service.errors import RequestTooCostly

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.evaluation.asked import Arm, Purpose
    from service.models.info import ModelInfo

__all__ = ["check_amount", "passes_of"]

_QUICK = 5.0  # passes that ``expected_passes`` allows for the maps of a picture
_CLASSES = 2  # that maps are made of
_HEADS = 40  # pictures that are explained with a random head, all five together


def passes_of(info: ModelInfo, arms: Sequence[Arm], purposes: Sequence[Purpose], pictures: int, marked: int) -> float:
    """Estimate the passes of an evaluation of ``pictures``, on ``marked`` of which something is marked."""
    from service.evaluation.expected import expected_passes  # noqa: PLC0415  # adds nothing to the start

    layers = [info.layer(name) for name in dict.fromkeys(arm.layer for arm in arms)]
    methods = list(dict.fromkeys(arm.method for arm in arms))
    slow = max(0.0, amount(methods, [layer for layer in layers if layer.layout], _CLASSES, flops=info.flops) - _QUICK)
    explained = pictures + _HEADS + (2 * pictures if "class" in purposes else 0)
    return expected_passes(pictures, marked, len(arms), purposes) + slow * explained


def check_amount(passes: float, most: float, pictures: int) -> None:
    """Refuse an evaluation of more than ``most`` passes.

    Raises:
        RequestTooCostly: it is more.
    """
    if passes > most:
        raise RequestTooCostly(
            f"This evaluation takes about {passes:,.0f} passes of the model; {most:,.0f} are allowed. "
            "Send fewer pictures, or name fewer layers and methods.",
            factor="image",
            asked=pictures,
            allowed=max(1, int(pictures * most / passes)),
        )
