"""The layer catalogue of every classification model of torchvision, with random weights and small pictures."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.explain import explain
from service.cam.questions import Question, Top, Variant
from service.models.defaults import default_layer, recommended
from service.models.sources.zoo import architectures
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.cam.layers import Layer

# The longest beginning of a name counts. Small, and large enough for the default layer to be more than one cell.
SIZES = {"": 64, "alexnet": 96, "inception": 128, "maxvit": 224, "vit_h_14": 56, "vit_b_32": 96, "vit_l_32": 96}

# Explained at once; bounds the memory of models with many layers.
LAYERS_AT_ONCE = 400


def size_of(name: str) -> int:
    return SIZES[max((start for start in SIZES if name.startswith(start)), key=len)]


def build(name: str) -> nn.Module:
    """Build a model and fill its matrices from one small pool: its own initialisation takes longer than all the rest."""
    options: dict[str, Any] = {"image_size": size_of(name)} if name.startswith("vit") else {}
    if name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "init_weights": False}
    random = [f"{kind}_{shape}_" for kind in ("kaiming", "xavier") for shape in ("uniform", "normal")]
    nothing = {each: lambda tensor, *_, **__: tensor for each in (*random, "uniform_", "normal_", "trunc_normal_")}
    with patch.multiple(nn.init, **nothing):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    pool = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0))  # odd, so that rows differ
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = (2 / parameter[0].numel()) ** 0.5
            for part in parameter.detach().view(-1).split(len(pool)):
                torch.mul(pool[: len(part)], scale, out=part)
        elif parameter_name.endswith("bias"):
            parameter.detach().copy_(0.1 * pool[: len(parameter)])
    return model.eval().requires_grad_(requires_grad=False)


def pictures(name: str, n: int) -> Tensor:
    size = size_of(name)
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


BRANCH = "parallel paths"
SQUEEZED = "1×1 output: no position is left to show"
UNREAD = "only the class token is read behind this layer: the gradient is zero on every patch"
UNCALLED = "never called in the forward pass"
USED = f"{UNCALLED} (the layer that holds it may use its weights)"

# One small model per family: rows (kind, shape, stride, the note or a part of it), and what is recommended.
Row = tuple[str, tuple[int, ...], int | None, str | None]
FAMILIES: dict[str, tuple[dict[str, Row], tuple[str, ...]]] = {}
