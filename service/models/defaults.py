"""The default target layer per family: the last block whose output still has rows and columns.

A family's row is a pattern on layer names; the last layer in forward order that matches wins. Where none matches, or
the match is down to 1×1 (a small input), the last layer of the trunk that still is a grid serves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from service.errors import ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.layers import Layer

__all__ = ["FAMILIES", "default_layer"]

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


def default_layer(architecture: str, layers: Sequence[Layer]) -> str:
    """Choose the layer to explain when the caller names none.

    Args:
        architecture: such as ``resnet50``; the longest family name that it starts with counts.
        layers: the catalogue.

    Raises:
        ModelLoadError: no layer can be explained.
    """
    usable = [layer for layer in layers if layer.explainable]
    family = max((name for name in FAMILIES if architecture.startswith(name)), key=len, default=None)
    if family is not None:
        matching = [layer.name for layer in usable if re.fullmatch(FAMILIES[family], layer.name)]
        if matching:
            return matching[-1]
    trunk = [layer.name for layer in usable if layer.note is None]
    if not (trunk or usable):
        raise ModelLoadError("No layer of this model has an output with rows and columns, so it cannot be explained.")
    return (trunk or [layer.name for layer in usable])[-1]
