"""The default target layer per family: the last block whose output still has rows and columns.

A family's row is a pattern on layer names; the last layer in forward order that matches wins. Where none matches, or
the match is down to 1×1 (a small input), the last grid that lies on every path to the logits serves; where that is in
the first half of the network, since branches part early, the last grid of any branch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer

__all__ = ["FAMILIES", "default_layer", "recommended"]

# Torchvision's naming; ``vit``: the last block's output has a gradient on the class token alone, its first norm on all.
FAMILIES: dict[str, str] = {
    "alexnet": r"features",
    "convnext": r"features",
    "densenet": r"features",
    "efficientnet": r"features",
    "googlenet": r"inception5b",
    "inception": r"Mixed_7c",
    "maxvit": r"blocks\.\d+",
    "mnasnet": r"layers",
    "mobilenet": r"features",
    "regnet": r"trunk_output",
    "resnet": r"layer4",
    "resnext": r"layer4",
    "shapes": r"layer4",
    "shufflenet": r"conv5",
    "squeezenet": r"features",
    "swin": r"features",
    "vgg": r"features",
    "vit": r"encoder\.layers\.encoder_layer_\d+\.ln_1",
    "wide_resnet": r"layer4",
}


def default_layer(architecture: str, layers: Sequence[Layer], preferred: str | None = None) -> str:
    """Choose the layer to explain when the caller names none.

    Args:
        architecture: such as ``resnet50``; the longest family name that it starts with counts.
        layers: the catalogue.
        preferred: the source's own choice, which wins where it can be explained.

    Raises:
        ModelLoadError: no layer can be explained.
    """
    usable = [layer for layer in layers if layer.explainable]
    usable = [layer for layer in usable if layer.no_gradient is None] or usable
    if not usable:
        raise ModelLoadError(_nothing_to_explain(layers))
    if preferred in {layer.name for layer in usable}:
        assert preferred is not None
        return preferred
    family = max((name for name in FAMILIES if architecture.startswith(name)), key=len, default=None)
    if family is not None:
        matching = [layer.name for layer in usable if re.fullmatch(FAMILIES[family], layer.name)]
        if matching:
            return matching[-1]
    on_every_path = [place for place, layer in enumerate(usable) if layer.on_every_path]
    if on_every_path and on_every_path[-1] + 1 >= len(usable) / 2:
        return usable[on_every_path[-1]].name
    # Branches that begin early are joined late: what lies on every path is then far from the logits.
    fitting = [layer for layer in usable if layer.kind not in {"linear", "attention", "other"}]
    return (fitting or usable)[-1].name


def _nothing_to_explain(layers: Sequence[Layer]) -> str:
    """Say why no layer can be explained: none has a grid, or the last that has one is refused."""
    grids = [layer for layer in layers if layer.layout is not None]
    # Without any, the last that looks as if it had one: its axes, or its number of rows, are not what they should be.
    images = [layer for layer in layers if len(layer.shape) == 3]
    if not (grids or images):
        return "No layer of this model has an output with rows and columns, so it cannot be explained."
    last = (grids or images)[-1]
    return (
        f"This model cannot be explained: its last layer with rows and columns, {last.name!r}, is refused: {last.note}."
    )


def recommended(layers: Sequence[Layer], default: str) -> tuple[str, ...]:
    """Name layers worth trying: the default, then one of a finer grid and one of a coarser grid where there are such.

    Of the layers on every path to the logits, finer is the last of the outermost blocks with the next finer grid, and
    coarser the same for the next coarser one; outermost layers if no block has it, as in VGG. Where they all have one
    grid, as in a ViT, the alternative is the default's counterpart two thirds of the way up the network: same name,
    smaller number.

    Args:
        layers: the catalogue.
        default: the default layer's name.
    """
    chosen = next(layer for layer in layers if layer.name == default)
    on_every_path = [layer for layer in layers if layer.explainable and layer.on_every_path]
    sizes = {_cells(layer) for layer in on_every_path}
    finer = min((size for size in sizes if size > _cells(chosen)), default=None)
    coarser = max((size for size in sizes if size < _cells(chosen)), default=None)
    if finer is None and coarser is None:
        return default, *_counterpart(layers, default)
    found = [_last([layer for layer in on_every_path if _cells(layer) == size]) for size in (finer, coarser) if size]
    return default, *found


def _last(layers: Sequence[Layer]) -> str:
    """The last of the outermost blocks; of the outermost layers of other kinds where there is no block."""
    blocks = [layer for layer in layers if layer.kind == "block"] or layers
    depth = min(layer.call.module.count(".") for layer in blocks)
    return [layer.name for layer in blocks if layer.call.module.count(".") == depth][-1]


def _counterpart(layers: Sequence[Layer], name: str) -> list[str]:
    """The layer two thirds of the way up among those whose names differ from ``name`` in one number."""
    names = [layer.name for layer in layers if layer.explainable]
    blanks = [(number.start(), number.end()) for number in re.finditer(r"\d+", name)]
    patterns = [re.escape(name[:start]) + r"\d+" + re.escape(name[end:]) for start, end in blanks]
    series = [[found for found in names if re.fullmatch(pattern, found)] for pattern in patterns]
    longest = max(series, key=len, default=[])
    found = longest[len(longest) * 2 // 3 - 1 :][:1] if len(longest) > 2 else []
    return [each for each in found if each != name]


def _cells(layer: Layer) -> int:
    return layer.layout.height * layer.layout.width if layer.layout else 0
