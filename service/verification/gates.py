"""Which sanity gates a map can have and what they cost, and whether two maps differ. Needs no torch.

The map of another class, and that of a random head, are made by a pass or two more where a method is quick. A method
that runs the model many times has them of its own passes: each has the logits of all classes, and the last layer gives
out those of a random head beside them.
"""

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

__all__ = [
    "differ",
    "in_the_same_passes",
    "may_compare_classes",
    "may_randomise",
    "other_class",
    "passes_beside",
    "passes_of_gate",
]

# Maps whose values have a greater correlation than that are taken for the same.
_ALIKE = 0.9
# Forward passes that the gates of a map may take, both together, where they are made of the map's own.
_MOST_PASSES = 2
# Maps for each that is asked for: its own, that of another class, and that of a random head.
_EACH = 3


def may_compare_classes(method: str, options: CamOptions) -> bool:
    """Whether the map of another class is made by itself: it costs no more than a few passes, and could be another."""
    row = METHODS[method]
    return row.class_specific and not row.slow and options.views == 1


def may_randomise(method: str, options: CamOptions) -> bool:
    """Whether the map of the network with a random head is made, likewise."""
    return may_compare_classes(method, options) and METHODS[method].uses_layer


def in_the_same_passes(method: str, layers: Sequence[Layer], targets: int, options: CamOptions) -> bool:
    """Whether the maps that the gates compare with come of the passes of the maps themselves.

    Args:
        method: a name in ``METHODS``.
        layers: where it looks.
        targets: classes that are asked for.
        options: how maps are made.
    """
    if not METHODS[method].class_specific or may_compare_classes(method, options):
        return False
    return passes_beside(method, layers, targets, options) <= _MOST_PASSES


def passes_beside(method: str, layers: Sequence[Layer], targets: int, options: CamOptions) -> int:
    """Count the forward passes that these take more than the maps alone: one that says which classes there are."""
    alone, both = (
        passes_together([method], layers, targets=each, options=options) for each in (targets, _EACH * targets)
    )
    return 1 + both.forward - alone.forward


def passes_of_gate(method: str, layers: Sequence[Layer], options: CamOptions) -> int:
    """Count the forward passes that one gate of a map takes by itself."""
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
