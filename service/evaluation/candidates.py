"""Which layers are worth comparing, and which are never recommended whatever their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.cam.methods import METHODS
from service.errors import InvalidOption, MethodNotApplicable, UnknownMethod
from service.evaluation.asked import Arm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer
    from service.models.info import ModelInfo

__all__ = ["arms_of", "default_layers", "never"]

_MOST_LAYERS = 8
_LEAST_CELLS = 4  # rows and columns


def default_layers(info: ModelInfo) -> tuple[str, ...]:
    """Return the model's recommended layers, the last block of every stage, and the two before the last one.

    A stage is what has outputs of one shape. Where a network has many, the deepest count.
    """
    usable = [layer for layer in info.layers if layer.explainable and layer.on_every_path and layer.layout]
    usable = [layer for layer in usable if min(layer.grid) >= _LEAST_CELLS and layer.no_gradient is None]
    blocks = [layer for layer in usable if layer.kind == "block"] or usable
    lasts = {layer.shape: layer for layer in blocks}  # of blocks within each other the outermost comes last
    # The blocks within the last stages too: ``layer4.0`` beside ``layer4``.
    inner = [layer for layer in blocks if any(layer.name.startswith(f"{last.name}.") for last in lasts.values())]
    inner = [layer for layer in inner if not _same_place(layer, lasts[layer.shape])]
    chosen = [*info.recommended, *(layer.name for layer in [*lasts.values(), *inner[-2:]])]
    order = {layer.name: layer.order for layer in info.layers}
    names = sorted(dict.fromkeys(chosen), key=lambda name: order[name])
    kept = [name for name in names if name in info.recommended]
    return tuple(sorted({*kept, *names[-_MOST_LAYERS:]}, key=lambda name: order[name]))


def _same_place(inner: Layer, outer: Layer) -> bool:
    """Whether a block is the last within another, so that both give out the same."""
    return outer.order - inner.order == 1


def arms_of(info: ModelInfo, layers: Sequence[str], methods: Sequence[str]) -> tuple[Arm, ...]:
    """Return the candidates: all methods at all layers; methods of the whole network once, under the default layer.

    Raises:
        InvalidOption: there are none.
        UnknownLayer: there is no such layer.
        LayerNotExplainable: there is one, and no map can be made of it.
        UnknownMethod: there is no such method.
        MethodNotApplicable: it does not apply to this model.
    """
    for method in methods:
        if method not in METHODS:
            raise UnknownMethod.among(method, METHODS)
        if reason := info.refused_methods.get(method):
            raise MethodNotApplicable(f"The method {method!r} does not apply to model {info.name!r}: {reason}")
    names = [info.layer(layer).name for layer in layers]
    if not names or not methods:
        raise InvalidOption("There is nothing to compare: name a layer and a method.")
    arms = [
        Arm(name if METHODS[method].uses_layer else info.layer("default").name, method)
        for method in methods
        for name in names
    ]
    return tuple(dict.fromkeys(arms))


def never(info: ModelInfo, arm: Arm) -> str | None:
    """Say why a candidate is never recommended, whatever its scores; None where it may be."""
    if not METHODS[arm.method].uses_layer:
        return None
    layer = info.layer(arm.layer)
    if min(layer.grid) < 2:
        return f"its grid is {layer.grid[0]}×{layer.grid[1]}: its maps say nothing of places"
    if not layer.on_every_path and layer.name != info.default_layer:
        return "it lies on one of several parallel paths: evidence that goes by the others is invisible there"
    return None
