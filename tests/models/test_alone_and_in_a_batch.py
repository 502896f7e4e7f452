"""Gradients of torchvision's families, as they are served: a picture's own do not depend on who else is in its batch.

PyTorch's operators choose other ways for one picture than for several; where one is wrong, the two differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from service.cam.capture import gradients
from service.models.loading import load_model
from service.settings import ModelConfig

if TYPE_CHECKING:
    from service.cam.layers import Layer
    from service.models.host import ModelHost
    from service.models.sources.source import Downloads

FAMILIES = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5 mobilenet_v2 "
    "mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d shufflenet_v2_x0_5 squeezenet1_0 swin_t vit_b_32"
)
MOST = 2e-3  # of the largest: rounding moves those of RegNet's early layers by half of that
WEIGHTS = torch.eye(1000)[[3, 7]]


def some_layers(model: ModelHost) -> list[Layer]:
    """Return some layers from the middle to the last, of the network's larger parts."""
    parts = [layer for layer in model.info.layers if layer.layout is not None and layer.name.count(".") < 5]
    later = parts[len(parts) // 2 :]
    return [*later[:: max(1, len(later) // 5)], later[-1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES.split())
def test_a_pictures_gradients_are_the_same(name: str, offline: Downloads) -> None:
    model = load_model(ModelConfig(name=name, architecture=name, weights="random"), "cpu", offline)
    network, wanted = model.network(None), model.info.preprocess
    pictures = torch.randn(2, 3, wanted.height, wanted.width, generator=torch.Generator().manual_seed(0))
    for layer in some_layers(model):
        together = gradients(network.capture(pictures, [layer.call]), WEIGHTS)[layer.call]
        alone = gradients(network.capture(pictures[1:], [layer.call]), WEIGHTS[1:])[layer.call]
        difference = (alone - together[1:]).abs().max()
        assert difference <= MOST * together[1:].abs().max(), layer.name
