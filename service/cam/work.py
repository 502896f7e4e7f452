"""How much a method computes: passes through the network, counted before anything is computed. Needs no torch.

The count is exact for what ``explain`` makes of one picture, in steps as large as memory allows; one that is cut by
time, see ``service.cam.pace``, begins anew. In a batch whose pictures ask for different numbers of
targets, all rows go through as many backward passes as the row with the most targets needs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from service.cam.methods import METHODS
from service.cam.targets import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from service.cam.layers import Layer
    from service.cam.methods import Method, Work
    from service.cam.targets import CamOptions

__all__ = ["Passes", "passes_together", "rows_at_once"]

# Bound on the elements of the largest tensor made of a chunk of perturbed rows: 32 Mi float32 are 128 MiB.
_CHUNK_ELEMENTS = 32 * 2**20


@dataclass(frozen=True)
class Passes:
    """Passes through the network for one picture.

    Attributes:
        forward: from the input to the logits.
        tail: from the target layer to the logits, without a graph.
        backward: from the logits to the first target layer; to the input for methods of the whole network. The second
            derivatives of ShapleyCAM are passes like any other here, though each takes about twice as long.
    """

    forward: int = 0
    tail: int = 0
    backward: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forward + other.forward, self.tail + other.tail, self.backward + other.backward)

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forward * times, self.tail * times, self.backward * times)


@dataclass(frozen=True)
class _Size:
    """What of a layer decides how much is computed there."""

    channels: int
    cells: int
    on_every_path: bool


def passes_together(
    methods: Sequence[str], layers: Sequence[Layer], *, targets: int = 1, options: CamOptions = PLAIN
) -> Passes:
    """Count the passes of several methods at several layers, which share what they can.

    Args:
        methods: names in ``METHODS``.
        layers: rows of the catalogue, with a grid.
        targets: classes to explain.
        options: how maps are made.
    """
    sizes = {layer.name: _Size(layer.shape[0], layer.grid[0] * layer.grid[1], layer.on_every_path) for layer in layers}
    return _total([METHODS[name] for name in dict.fromkeys(methods)], list(sizes.values()), targets, options)


def rows_at_once(total: int, elements: int) -> int:
    """Return how many of ``total`` perturbed rows are computed at once, of ``elements`` numbers each at most."""
    return max(1, min(total, _CHUNK_ELEMENTS // max(1, elements)))


def _total(methods: Sequence[Method], sizes: Sequence[_Size], targets: int, options: CamOptions) -> Passes:
    views = _sum([_shared(methods, targets), *(_own(method, sizes, targets) for method in methods)]) * options.views
    # What is predicted is predicted without noise.
    return views + Passes(forward=1) if options.smooth else views


def _shared(methods: Sequence[Method], targets: int) -> Passes:
    """One forward pass of each kind, and one backward pass per target and kind of score."""
    forward = {method.forward_pass for method in methods}
    backward = {(method.score, method.forward_pass) for method in methods if method.work.shared_backward}
    return Passes(forward=len(forward), backward=len(backward) * targets)


def _own(method: Method, sizes: Sequence[_Size], targets: int) -> Passes:
    """What a method computes for itself: per target and layer, as far as these matter to it."""
    looked_at = sizes if method.uses_layer else sizes[:1]
    return _sum(_at(method.work, size, targets if method.class_specific else 1) for size in looked_at)


def _at(work: Work, size: _Size, targets: int) -> Passes:
    ahead = Passes(work.forward + work.forward_per_channel * size.channels)
    ahead += _resumed(work.tail_per_channel * size.channels, size)
    numbers = work.kept * size.channels * size.cells
    times = ceil(targets / rows_at_once(targets, numbers)) if work.together else targets
    return ahead * times + Passes(backward=work.backward * targets)


def _resumed(changed: int, size: _Size) -> Passes:
    """Count what follows the layer for ``changed`` activations, and for those that they are compared with.

    These are the unchanged ones, once alone and once in every chunk that has more than one row.
    """
    if not changed:
        return Passes()
    most = rows_at_once(size.channels, size.channels * size.cells)
    chunks = ceil(changed / most)
    of_one = chunks if most == 1 else int(changed % most == 1)
    rows = 1 + changed + chunks - of_one
    if not size.on_every_path:
        return Passes(forward=rows)
    # What comes before the layer is computed once per chunk, for the first of its rows.
    return Passes(forward=1 + chunks, tail=rows - 1 - chunks)


def _sum(parts: Iterable[Passes]) -> Passes:
    return sum(parts, start=Passes())
