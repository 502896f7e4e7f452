"""Maps put to the proof: what they call important is hidden, and as much elsewhere; and the sanity gates.

Runs in the worker process, or in whatever process calls it.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from service.cam.methods import METHODS
from service.cam.pace import Pace
from service.cam.placing import Placing
from service.cam.work import rows_at_once
from service.imaging.comparison import PlacedMap
from service.placement import Placement
from service.verification.gates import differ, in_the_same_passes, may_compare_classes, passes_beside, passes_of_gate
from service.verification.hiding import blurred, feathered, hide
from service.verification.region import elsewhere, hottest
from service.verification.score import Scale
from service.verification.verdict import Drops, Gates, undecided

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.cam.explain import Checkpoint
    from service.cam.raw_map import RawMap
    from service.engine.messages import RowAnswer
    from service.engine.workers.counterparts import Asked, Counterparts, Place
    from service.verification.region import View
    from service.verification.verdict import Verification
    from service.vocabulary import GateMissing

    Map = RawMap[NDArray[np.float32]]

__all__ = ["Examined"]

# By how much of a score those of two batches may lie apart, by rounding.
_ROUNDING = {"float32": 1e-4, "float64": 1e-8}
_COARSE_ROUNDING = 2e-2
# Numbers in the largest tensor that is made of a pixel of the input, about.
_PER_PIXEL = 16
# Next to a map's maximum: what varies by less is the same everywhere.
_CONSTANT = 1e-5


@dataclass(frozen=True)
class Examined:
    """A picture that has been explained, and whose maps are put to the proof.

    Attributes:
        asked: the picture, and what was asked of it. Steps between its checkpoints are as short as an explanation's.
        view: the part of it that the picture fills.
        answer: its logits and maps.
        counterparts: what came of the passes of the explanation.
    """

    asked: Asked
    view: View
    answer: RowAnswer
    counterparts: Counterparts

    def proofs(self) -> tuple[Verification, ...]:
        """Return the proof of each map, in their order."""
        hot = [self._hot(raw) for raw in self.answer.maps]
        if not any(each.any() for each in hot):
            return tuple(_undecided(raw) for raw in self.answer.maps)
        rows = enumerate(zip(self.answer.maps, hot, self._gates(), strict=True))
        return tuple(self._proof(*row, _part(self.asked.checkpoint, index, len(hot))) for index, row in rows)

    @cached_property
    def _placing(self) -> Placing:
        info, options = self.asked.info, self.asked.lane.cam_options
        layers = {name: info.layer(name) for name in self.asked.lane.layers}
        return Placing(layers, options, options.registration, info.preprocess.height, info.preprocess.width)

    @cached_property
    def _seen(self) -> NDArray[np.uint8]:
        return self.asked.pixels[self.view.pixels]

    @cached_property
    def _blurred(self) -> NDArray[np.uint8]:
        return blurred(self._seen)

    @cached_property
    def _pace(self) -> Pace:
        return Pace()

    # -- hiding -------------------------------------------------------------------------------------------------------

    def _proof(self, raw: Map, hot: NDArray[np.bool_], gates: Gates, checkpoint: Checkpoint) -> Verification:
        if not hot.any():
            return _undecided(raw)
        shapes = [hot, *elsewhere(hot, zlib.crc32(self.asked.pixels.tobytes()))]
        scale = Scale(self.asked.info.activation, raw.target, self.asked.targets.against)
        before, after = self.answer.logits[None], self._hidden(shapes, checkpoint)
        (score,), (chance,) = scale.logits(before), scale.probability(before)
        drops = score - scale.logits(after)
        rounding = _ROUNDING.get(self.asked.host.info.dtype, _COARSE_ROUNDING) * max(1.0, abs(float(score)))
        found = Drops(
            float(drops[0]),
            float(chance - scale.probability(after)[0]),
            drops[1:].tolist(),
            rounding,
            scale.against is None,
        )
        return found.judged(gates, len(shapes) + self._passes(raw, gates))

    def _hot(self, raw: Map) -> NDArray[np.bool_]:
        """Return what a map calls important, in the view; nothing where it is the same everywhere."""
        if _is_constant(raw):
            return np.zeros(self._seen.shape[:2], np.bool_)
        (rows, columns), (height, width) = raw.values.shape, self.asked.pixels.shape[:2]
        where = self._placing.of(raw.layer, raw.method) or Placement.stretched(rows, columns, height, width)
        return hottest(PlacedMap(raw.values, where), self.view)

    def _hidden(self, shapes: Sequence[NDArray[np.bool_]], checkpoint: Checkpoint) -> NDArray[np.float32]:
        """Return the outputs (n, classes) for the picture with each of n shapes hidden."""
        asked, most = self.asked, rows_at_once(len(shapes), _PER_PIXEL * self.asked.pixels.size)
        outputs: list[NDArray[np.float32]] = []
        begin = 0
        while begin < len(shapes):
            some = shapes[begin : begin + min(most, self._pace.rows("hidden"))]
            batch = np.stack([self._without(shape) for shape in some])
            step = _Step(_part(checkpoint, begin, len(shapes)))
            outputs.append(asked.host.predict(batch, asked.lane.head, step, asked.lane.sentences).numpy())
            self._pace.took("hidden", len(some), step.seconds)
            begin += len(some)
        return np.concatenate(outputs)

    def _without(self, shape: NDArray[np.bool_]) -> NDArray[np.uint8]:
        without = self.asked.pixels.copy()
        without[self.view.pixels] = hide(self._seen, self._blurred, feathered(shape))
        return without

    # -- gates --------------------------------------------------------------------------------------------------------

    def _gates(self) -> list[Gates]:
        """Return the gates of all maps; what they need is computed once for all of them."""
        found = self.asked.made(self.answer.logits, self.counterparts)
        count = self.asked.targets.count
        places = self.asked.places(range(len(self.asked.lane.methods)), count)
        return [self._gates_of(raw, place, found) for place, raw in zip(places, self.answer.maps, strict=True)]

    def _gates_of(self, raw: Map, place: Place, found: Counterparts) -> Gates:
        row = METHODS[raw.method]
        if not row.class_specific:  # nor does it look at the head
            return Gates(class_differs=False, random_head_differs=False)
        other, random = found.by_class.get(place), found.by_head.get(place)
        reasons: dict[str, GateMissing] = {}
        tried = place[1] in self.asked.together or may_compare_classes(raw.method, self.asked.lane.cam_options)
        if other is None:
            reasons["class_differs"] = "no_other_class" if found.no_other_class else "many_passes"
        if random is None:
            reasons["random_head_differs"] = (
                "whole_network" if not row.uses_layer else "head_unknown" if tried else "many_passes"
            )
        return Gates(
            class_differs=None if other is None else differ(raw.values, other),
            random_head_differs=None if random is None else differ(raw.values, random),
            missing=reasons,
        )

    def _passes(self, raw: Map, gates: Gates) -> int:
        """Count the forward passes of a map's gates."""
        method, layers, options = raw.method, list(self._placing.layers.values()), self.asked.lane.cam_options
        if not METHODS[method].class_specific:
            return 0
        if in_the_same_passes(method, layers, self.asked.targets.count, options):
            return passes_beside(method, layers, self.asked.targets.count, options)
        made = (gates.class_differs is not None) + (gates.random_head_differs is not None)
        return made * passes_of_gate(method, layers, options)


class _Step:
    """The checkpoint of one pass, which begins when the model is free; and how long it takes from there."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._began = checkpoint, time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        self._checkpoint(done, total)
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began


def _part(checkpoint: Checkpoint, index: int, parts: int) -> Checkpoint:
    """The checkpoint of one of several equal parts of some work."""
    return lambda done, total: checkpoint(index * total + done, parts * total)


def _undecided(raw: Map) -> Verification:
    return undecided("empty" if _is_constant(raw) else "nothing_to_hide")


def _is_constant(raw: Map) -> bool:
    """Whether a map is the same everywhere, as one without evidence is."""
    return bool(raw.values.max() - raw.values.min() <= _CONSTANT * np.abs(raw.values).max())
