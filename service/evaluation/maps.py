"""The maps of an evaluation: which classes they are of, where they look, and which candidates have the same."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

from service.cam.methods import METHODS
from service.evaluation.candidates import never
from service.evaluation.gates import is_dead
from service.evaluation.subject import probabilities_of
from service.imaging.sampling import resample
from service.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.asked import Arm
    from service.evaluation.pictures import Picture
    from service.evaluation.state import State
    from service.models.info import ModelInfo

__all__ = ["Maps", "placement_of"]

_EQUAL = 1e-4  # of the maximum: what rounding may make of the same map


def placement_of(info: ModelInfo, arm: Arm, cells: tuple[int, ...], height: int, width: int) -> Placement:
    """Return where the ``cells`` (h, w) of an arm's maps look, in an input of ``height`` × ``width`` pixels."""
    measured = info.layer(arm.layer).placement if METHODS[arm.method].uses_layer else None
    return measured or Placement.stretched(cells[0], cells[1], height, width)


class Maps:
    """What the first steps found, of the predicted class of every picture and of the runner-up.

    Args:
        info: of the model.
        pictures: all of them.
        arms: the candidates.
        state: with the steps ``logits`` and ``maps``.
        chunk: how many pictures such a step is of.
    """

    def __init__(
        self, info: ModelInfo, pictures: Sequence[Picture], arms: Sequence[Arm], state: State, chunk: int
    ) -> None:
        self.info, self.pictures, self.arms = info, pictures, arms
        self._state, self._chunk = state, chunk

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """(pictures, classes)."""
        count = -(-len(self.pictures) // self._chunk)
        logits = np.concatenate([self._state[f"logits/{index}"]["logits"] for index in range(count)])
        return probabilities_of(cast("NDArray[np.float32]", logits), self.info.activation)

    @cached_property
    def ranking(self) -> NDArray[np.intp]:
        """The predicted class of each picture and the runner-up, (pictures, 2); (pictures, 1) of a single class."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :2]

    @property
    def classes(self) -> list[int]:
        """The predicted class of each picture: the one that is explained."""
        return [int(each) for each in self.ranking[:, 0]]

    def confidence(self, picture: int) -> float:
        """Return the probability of a picture's predicted class."""
        return float(self.probabilities[picture, self.ranking[picture, 0]])

    def correct(self, picture: int) -> bool:
        """Whether a picture is predicted to be what its folder is named after, or nobody says what it is."""
        named = self.pictures[picture].named
        return named is None or named == self.classes[picture]

    def raw(self, arm: int, picture: int, rank: int = 0) -> NDArray[np.float32]:
        """Return the map (h, w) of the predicted class, or of the runner-up (rank 1); zero where it says nothing."""
        chunk, row = divmod(picture, self._chunk)
        stack = cast("NDArray[np.float32]", self._state[f"maps/{chunk}"][f"a{arm}"])
        values = stack[row, rank]
        return np.zeros_like(values) if is_dead(values) else values

    def is_dead(self, arm: int, picture: int) -> bool:
        """Whether a map says nothing of places."""
        return not self.raw(arm, picture).any()

    @lru_cache(maxsize=64)  # noqa: B019  # ends with the evaluation
    def at_input(self, arm: int, picture: int) -> NDArray[np.float32]:
        """Return a map at every pixel of the model's input, (height, width)."""
        values, spec = self.raw(arm, picture), self.info.preprocess
        placement = self.placement(arm, values.shape)
        xs = placement.x.to_cells(np.arange(spec.width) + 0.5)
        ys = placement.y.to_cells(np.arange(spec.height) + 0.5)
        return resample(values, xs, ys)

    def placement(self, arm: int, cells: tuple[int, ...]) -> Placement:
        """Return where an arm's maps look in the model's input."""
        spec = self.info.preprocess
        return placement_of(self.info, self.arms[arm], cells, spec.height, spec.width)

    @cached_property
    def twins(self) -> list[int]:
        """For each arm, the one that stands for all that have its maps: the default layer, or the shortest name."""
        order = sorted(range(len(self.arms)), key=self._preference)
        found: dict[int, int] = {}
        for arm in order:
            found[arm] = next((other for other in found.values() if self._same(arm, other)), arm)
        return [found[arm] for arm in range(len(self.arms))]

    def _preference(self, arm: int) -> tuple[bool, bool, int, int]:
        layer = self.arms[arm].layer
        barred = never(self.info, self.arms[arm]) is not None
        return barred, layer != self.info.default_layer, len(layer), arm

    def _same(self, arm: int, other: int) -> bool:
        if self.arms[arm].method != self.arms[other].method and self.arms[arm].layer != self.arms[other].layer:
            return False
        for picture in range(len(self.pictures)):
            one, two = self.raw(arm, picture), self.raw(other, picture)
            if one.shape != two.shape or np.abs(one - two).max() > _EQUAL * max(1e-30, float(np.abs(two).max())):
                return False
        return True

    @cached_property
    def distinct(self) -> list[int]:
        """The arms that stand for themselves."""
        return [arm for arm in range(len(self.arms)) if self.twins[arm] == arm]
