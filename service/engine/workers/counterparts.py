"""The maps that gates compare a map with: that of another class, and that of the network with a random head.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch

from service.cam.methods import METHODS
from service.cam.raw_map import RawMap
from service.cam.targets import Targets
from service.engine.messages import RowAnswer
from service.errors import MethodNotApplicable, ModelOutputError
from service.models.host import HowTo
from service.verification.gates import in_the_same_passes, may_compare_classes, may_randomise, other_class

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from service.cam.explain import Checkpoint, Explained
    from service.cam.targets import CamOptions
    from service.engine.messages import Lane
    from service.models.host import ModelHost
    from service.models.info import ModelInfo

__all__ = ["Asked", "Counterparts", "Place", "as_answers"]

Place = tuple[int, int, int]
"""Which layer, method and target a map is of."""

# Which random order the last layer's weights are in.
_HEAD_SEED = 2016


@dataclass
class Counterparts:
    """What maps are compared with, by the place of each; of some there is nothing.

    Attributes:
        by_class: maps of the most probable other class.
        by_head: maps of the network with a random head.
        no_other_class: whether there is none for some target.
    """

    by_class: dict[Place, NDArray[np.float32]] = field(default_factory=dict)
    by_head: dict[Place, NDArray[np.float32]] = field(default_factory=dict)
    no_other_class: bool = False


@dataclass(frozen=True)
class Asked:
    """What is asked of one picture.

    Attributes:
        host: the model.
        lane: how it is explained.
        pixels: (H, W, channels) uint8, the model's input.
        targets: which classes.
        checkpoint: called between steps.
    """

    host: ModelHost
    lane: Lane
    pixels: NDArray[np.uint8]
    targets: Targets
    checkpoint: Checkpoint

    @cached_property
    def info(self) -> ModelInfo:
        """What is known of the model, seen through the head that is asked."""
        return self.host.info.head_view(self.lane.head)

    @cached_property
    def together(self) -> list[int]:
        """Methods, by their numbers, whose maps and counterparts come of the same passes."""
        layers = [self.info.layer(name) for name in self.lane.layers]
        count, options = self.targets.count, self.lane.cam_options
        names = enumerate(self.lane.methods)
        return [number for number, name in names if in_the_same_passes(name, layers, count, options)]

    def answered(self) -> tuple[RowAnswer, Counterparts]:
        """Return logits and maps, and what is to be had of their passes."""
        if self.together:
            return self._answered_together()
        how = self._how(range(len(self.lane.methods)), None)
        answers = self.host.explain(self.pixels[None], [self.targets], how, self.checkpoint, gives_way=self.lane.large)
        return as_answers(answers)[0], Counterparts()

    def _answered_together(self) -> tuple[RowAnswer, Counterparts]:
        """Predict first, as it must be known beforehand which classes are explained."""
        lane = self.lane
        (row,) = self.host.predict(self.pixels[None], lane.head, self.checkpoint, lane.sentences).numpy()
        logits, found = row.copy(), Counterparts()
        asked, others = self._classes(logits, found)
        together = self.together
        alone = [number for number in range(len(lane.methods)) if number not in together]
        maps = self._maps(alone, asked)
        by_layer = [number for number in together if METHODS[lane.methods[number]].uses_layer]
        for numbers, heads in ((by_layer, True), ([each for each in together if each not in by_layer], False)):
            maps |= self._with_counterparts(numbers, (asked, others, len(logits)), found, both_heads=heads)
        return RowAnswer(logits, tuple(maps[place] for place in sorted(maps))), found

    def made(self, logits: NDArray[np.float32], found: Counterparts) -> Counterparts:
        """Add what is made by itself, of methods that are quick."""
        asked, others = self._classes(logits, found)
        if others:
            found.by_class |= self._again(may_compare_classes, others)
        with suppress(ModelOutputError, MethodNotApplicable):  # the head is not known, or nothing comes out of another
            found.by_head |= self._again(may_randomise, asked, random_head=_HEAD_SEED)
        return found

    def places(self, methods: Sequence[int], targets: int) -> list[Place]:
        """Return the places of the maps of some methods, in their order."""
        layers = 1 if self.lane.cam_options.fuse else len(self.lane.layers)
        return list(product(range(layers), methods, range(targets)))

    def _classes(self, logits: NDArray[np.float32], found: Counterparts) -> tuple[list[int], list[int]]:
        """Return the classes that are asked for, and those to compare them with: none if one of them has none."""
        asked = self.targets.resolve(np.argsort(-logits, kind="stable").tolist())
        others = [other_class(logits, target, self.targets.against) for target in asked]
        known = [other for other in others if other is not None]
        found.no_other_class = len(known) < len(others)
        return list(asked), [] if found.no_other_class else known

    def _with_counterparts(
        self,
        methods: Sequence[int],
        classes: tuple[list[int], list[int], int],
        found: Counterparts,
        *,
        both_heads: bool,
    ) -> dict[Place, RawMap[NDArray[np.float32]]]:
        """Return the maps of methods that share their passes with what they are compared with, which ``found`` gets."""
        asked, others, count = classes
        random = [count + target for target in asked] if both_heads else []
        try:
            made = self._maps(methods, [*asked, *others, *random], both_heads=both_heads)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except (ModelOutputError, MethodNotApplicable, RuntimeError):
            if not both_heads:
                raise
            # The head is not known, or what follows it does not take more rows than there are pictures.
            return self._with_counterparts(methods, classes, found, both_heads=False)
        begins = len(asked) + len(others)
        for (layer, method, target), raw in made.items():
            into = found.by_class if target < begins else found.by_head
            if target >= len(asked):
                into[layer, method, (target - len(asked)) % len(asked)] = raw.values
        return {place: raw for place, raw in made.items() if place[2] < len(asked)}

    def _maps(
        self, methods: Sequence[int], classes: Sequence[int], *, both_heads: bool = False
    ) -> dict[Place, RawMap[NDArray[np.float32]]]:
        how = self._how(methods, _HEAD_SEED if both_heads else None, both_heads=both_heads)
        return {place: _as_numpy(raw) for place, raw in self._explained(methods, classes, how)}

    def _again(
        self, allowed: Callable[[str, CamOptions], bool], classes: Sequence[int], *, random_head: int | None = None
    ) -> dict[Place, NDArray[np.float32]]:
        """Return the maps for other classes, or of another head, by the place of those that they are compared with."""
        lane = self.lane
        methods = [place for place, name in enumerate(lane.methods) if allowed(name, lane.cam_options)]
        found = self._explained(methods, classes, self._how(methods, random_head))
        return {place: raw.values.numpy() for place, raw in found}

    def _how(self, methods: Sequence[int], random_head: int | None, *, both_heads: bool = False) -> HowTo:
        lane, names = self.lane, tuple(self.lane.methods[number] for number in methods)
        return HowTo(lane.layers, names, lane.cam_options, lane.head, lane.sentences, random_head, both_heads)

    def _explained(
        self, methods: Sequence[int], classes: Sequence[int], how: HowTo
    ) -> list[tuple[Place, RawMap[Tensor]]]:
        if not methods:
            return []
        targets = Targets(tuple(classes), self.targets.against)
        (row,) = self.host.explain(self.pixels[None], [targets], how, self.checkpoint, gives_way=self.lane.large)
        return list(zip(self.places(methods, len(classes)), row.maps, strict=True))


def as_answers(rows: Iterable[Explained]) -> list[RowAnswer]:
    """Return logits and maps as they travel."""
    return [RowAnswer(row.logits.numpy().copy(), tuple(_as_numpy(raw) for raw in row.maps)) for row in rows]


def _as_numpy(raw: RawMap[Tensor]) -> RawMap[NDArray[np.float32]]:
    """Return a map as it travels."""
    # A copy: a row's view would drag the whole batch's array through the pickle.
    return RawMap(raw.layer, raw.method, raw.target, raw.values.numpy().copy(), raw.zero_gradient)
