"""How much the explanations of a picture compute, in forward passes of the model.

Runs in the front process.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from service.cam.methods import METHODS
from service.cam.targets import PLAIN
from service.cam.work import passes_together
from service.verification.gates import in_the_same_passes, may_compare_classes, may_randomise
from service.verification.region import CONTROLS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer
    from service.cam.targets import CamOptions

__all__ = ["LARGE", "amount", "amount_of_proofs"]

LARGE = 4.0
"""An image of more work than that is large: it is computed alone, in slices, beside small ones."""

# A backward pass takes little longer than a forward pass: nothing is differentiated by the weights. Through the whole
# network all that is asked for is kept and summed up; what is differentiated a second time takes twice as long.
_BACKWARD, _BACKWARD_ALL, _SECOND = 1.1, 2.0, 2.0
# Floating-point operations at the speed of convolutions that a principal component of an (m, M) matrix takes, m <= M:
# so many times m² M for the Gram matrix in float64, and so many times m³ for its eigenvectors.
_GRAM, _EIGENVECTORS = 5, 45
# And those that a number of a layer's output takes, to be read, multiplied and summed up.
_PER_NUMBER = 100


def amount(
    methods: Sequence[str], layers: Sequence[Layer], targets: int = 1, options: CamOptions = PLAIN, flops: int = 0
) -> float:
    """Estimate the work of one picture.

    What comes after a layer counts as its share of a pass, ``Layer.tail``.

    Args:
        methods: names in ``METHODS``.
        layers: rows of the catalogue, with a grid.
        targets: classes to explain.
        options: how maps are made.
        flops: floating-point operations of a forward pass; 0 where they are not known.
    """
    local = [name for name in methods if METHODS[name].uses_layer]
    whole = [name for name in methods if not METHODS[name].uses_layer]
    total = _whole(whole, layers, targets, options) if whole else 0.0
    if local:
        total += _local(local, layers, targets, options) - (options.views if whole else 0)
        total += options.views * sum(_beside(name, layer, targets, flops) for name in local for layer in layers)
    return total


def amount_of_proofs(methods: Sequence[str], layers: Sequence[Layer], targets: int, options: CamOptions) -> float:
    """Estimate the work of putting each map of one picture to the proof; arguments as above."""
    maps = (1 if options.fuse else len(layers)) * len(methods) * targets
    total = float(maps * (1 + CONTROLS))
    for allowed in (may_compare_classes, may_randomise):
        if names := [name for name in methods if allowed(name, options)]:
            total += amount(names, layers, targets, options)
    return total + sum(_beside_the_same(name, layers, targets, options) for name in methods)


def _beside_the_same(name: str, layers: Sequence[Layer], targets: int, options: CamOptions) -> float:
    """Return what gates take that are made of the passes of the maps: a pass, and what each target takes for itself."""
    if not in_the_same_passes(name, layers, targets, options):
        return 0.0
    alone, both = (amount([name], layers, times * targets, options) for times in (1, 3))
    return 1 + both - alone


def _whole(methods: Sequence[str], layers: Sequence[Layer], targets: int, options: CamOptions) -> float:
    passes = passes_together(methods, layers, targets=targets, options=options)
    return passes.forward + _BACKWARD_ALL * passes.backward


def _local(methods: Sequence[str], layers: Sequence[Layer], targets: int, options: CamOptions) -> float:
    passes = passes_together(methods, layers, targets=targets, options=options)
    tails = [layer.tail for layer in layers]
    second = options.views * targets * len(layers) * sum(METHODS[name].derivatives > 1 for name in methods)
    mean, deepest = sum(tails) / len(tails), max(tails)
    # Each step of those that go on from a layer computes what comes before it, and the first ones of all are small.
    resuming = sum(METHODS[name].work.tail_per_channel > 0 for name in methods)
    begun = resuming * sum((1 - layer.tail) * _steps(layer.shape[0]) for layer in layers)
    return passes.forward + begun + passes.tail * mean + (_BACKWARD * passes.backward + _SECOND * second) * deepest


def _steps(rows: int) -> int:
    """Return how many steps rows take at least, beside one: each is of four times as many as the one before."""
    return math.ceil(math.log(3 * rows + 1, 4)) - 1


def _beside(name: str, layer: Layer, targets: int, flops: int) -> float:
    """Return what a method computes beside its passes, where it takes long: principal components, large activations."""
    if not flops:
        return 0.0
    channels, cells = layer.shape[0], math.prod(layer.grid)
    operations = _PER_NUMBER * channels * cells
    if "eigen" in name:
        low, high = sorted((channels, cells))
        operations += _GRAM * low * low * high + _EIGENVECTORS * low**3
    return operations * (targets if METHODS[name].class_specific else 1) / flops
