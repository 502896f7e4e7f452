"""Which sanity gates a map can have, and whether two maps differ. Needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.cam.work import passes_together
from service.imaging.comparison import PlacedMap, correlation
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.cam.layers import Layer
    from service.cam.targets import CamOptions

__all__ = ["differ", "may_compare_classes", "may_randomise", "other_class", "passes_of_gate"]

# Maps whose values have a greater correlation than that are taken for the same.
_ALIKE = 0.9


def may_compare_classes(method: str, options: CamOptions) -> bool:
    """Whether the map of another class is made: it costs no more than a few passes, and could be another one."""
    row = METHODS[method]
    return row.class_specific and not row.slow and options.views == 1


def may_randomise(method: str, options: CamOptions) -> bool:
    """Whether the map of the network with a random head is made, likewise."""
    return may_compare_classes(method, options) and METHODS[method].uses_layer


def passes_of_gate(method: str, layers: Sequence[Layer], options: CamOptions) -> int:
    """Count the forward passes that one gate of a map takes."""
    return passes_together([method], layers, options=options).forward


def other_class(outputs: NDArray[np.float32], target: int, against: int | None) -> int | None:
    """Return the most probable class beside the target, and beside what it is compared with; None if there is none."""
    rest = np.setdiff1d(np.arange(len(outputs)), [target, target if against is None else against])
    return int(rest[np.argmax(outputs[rest])]) if len(rest) else None


def differ(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two maps (h, w) of one layer show different places; one that shows nothing differs from any that does."""
    where = Placement.stretched(*one.shape, *one.shape)
    r = correlation(PlacedMap(np.maximum(one, 0), where), PlacedMap(np.maximum(other, 0), where))
    return r is None or r < _ALIKE
