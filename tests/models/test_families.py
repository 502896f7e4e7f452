"""Torchvision's families as they are served: the layer that is explained, its map, and gradients."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from service.cam.capture import gradients
from service.cam.targets import Targets, Top
from service.models.defaults import FAMILIES
from service.models.host import HowTo
from service.models.loading import load_model
from service.models.sources import torchvision_models
from service.models.sources.source import Downloads
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.cam.layers import Layer
    from service.models.host import ModelHost

# The smallest of every family (two where a second version is built differently), the layer that the literature and
# the usual tools take for it, and the shape of its output.
CONVENTIONAL = {
    "alexnet": ("features", (256, 6, 6)),
    "convnext_tiny": ("features", (768, 7, 7)),
    "densenet121": ("features", (1024, 7, 7)),
    "efficientnet_b0": ("features", (1280, 7, 7)),
    "googlenet": ("inception5b", (1024, 7, 7)),
    "inception_v3": ("Mixed_7c", (2048, 8, 8)),
    "maxvit_t": ("blocks.3", (512, 7, 7)),
    "mnasnet0_5": ("layers", (1280, 7, 7)),
    "mobilenet_v2": ("features", (1280, 7, 7)),
    "mobilenet_v3_small": ("features", (576, 7, 7)),
    "regnet_y_400mf": ("trunk_output", (440, 7, 7)),
    "resnet18": ("layer4", (512, 7, 7)),
    "resnext50_32x4d": ("layer4", (2048, 7, 7)),
    "shufflenet_v2_x0_5": ("conv5", (1024, 7, 7)),
    "squeezenet1_0": ("features", (512, 13, 13)),
    "swin_t": ("features", (768, 7, 7)),
    "swin_v2_t": ("features", (768, 8, 8)),
    "vgg11": ("features", (512, 7, 7)),
    "vit_b_32": ("encoder.layers.encoder_layer_11.ln_1", (768, 7, 7)),
    "wide_resnet50_2": ("layer4", (2048, 7, 7)),
}


def family(architecture: str) -> str | None:
    return max((name for name in FAMILIES if architecture.startswith(name)), key=len, default=None)


MOST = 2e-3  # of the largest gradient: rounding moves those of RegNet's early layers by half of that
WEIGHTS = torch.eye(1000)[[3, 7]]


def some_layers(model: ModelHost) -> list[Layer]:
    """Return some layers from the middle to the last, of the network's larger parts."""
    parts = [layer for layer in model.info.layers if layer.layout is not None and layer.name.count(".") < 5]
    later = parts[len(parts) // 2 :]
    return [*later[:: max(1, len(later) // 5)], later[-1]]


@pytest.fixture(scope="module", params=CONVENTIONAL)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    config = ModelConfig(architecture=request.param, weights="random")
    return load_model(config, "cpu", Downloads(tmp_path_factory.getbasetemp(), allowed=False))


@pytest.mark.slow  # twenty networks are loaded, and measured
class TestEveryFamily:
    def test_default_is_the_conventional_layer(self, host: ModelHost) -> None:
        layer = host.info.layer("default")  # raises where it cannot be explained

        assert (layer.name, layer.shape) == CONVENTIONAL[host.info.architecture]

    def test_all_that_the_network_sees_goes_through_it(self, host: ModelHost) -> None:
        layer = host.info.layer("default")

        if family(host.info.architecture) == "vit":  # the norm before its last attention: the residual goes around it
            assert layer.note is not None
            assert "parallel paths" in layer.note
        elif family(host.info.architecture) == "maxvit":  # untrained attention looks everywhere
            assert layer.note is not None
            assert layer.note.startswith("where its cells look could not be measured")
        else:
            assert layer.note is None

    def test_its_map_shows_a_place(self, host: ModelHost) -> None:
        spec = host.info.preprocess
        image = np.random.default_rng(0).integers(0, 256, (1, spec.height, spec.width, 3), dtype=np.uint8)

        # With random weights a bias can make a class win without evidence, and its map is empty: look at some more.
        (answer,) = host.explain(image, [Targets((Top(8),))], HowTo((host.info.default_layer,), ("gradcam",)))

        maps = torch.stack([raw.values for raw in answer.maps])
        assert maps.shape[1:] == CONVENTIONAL[host.info.architecture][1][1:]
        spread = (maps.amax((1, 2)) - maps.amin((1, 2))) / maps.amax((1, 2)).clamp_min(1e-30)
        assert float(spread.max()) > 0.05
        assert len({raw.target for raw in answer.maps}) == 8
        assert (maps != maps[0]).any(), "classes have maps of their own"

    def test_a_pictures_gradients_do_not_depend_on_who_else_is_in_its_batch(self, host: ModelHost) -> None:
        """PyTorch chooses other ways for one picture than for several; where one is wrong, the two differ."""
        network, wanted = host.network(None), host.info.preprocess
        pictures = torch.randn(2, 3, wanted.height, wanted.width, generator=torch.Generator().manual_seed(0))
        for layer in some_layers(host):
            together = gradients(network.capture(pictures, [layer.call]), WEIGHTS)[layer.call]
            alone = gradients(network.capture(pictures[1:], [layer.call]), WEIGHTS[1:])[layer.call]
            difference = (alone - together[1:]).abs().max()
            assert difference <= MOST * together[1:].abs().max(), layer.name


class TestFamilies:
    def test_every_classification_model_belongs_to_one(self) -> None:
        assert [name for name in torchvision_models.architectures() if family(name) is None] == []

    def test_every_family_has_a_representative_here(self) -> None:
        assert {family(name) for name in CONVENTIONAL} == set(FAMILIES) - {"shapes"}

    @pytest.mark.slow
    def test_every_models_modules_are_named_as_its_family_says(self) -> None:
        strangers = []
        for name, module in models_without_memory():
            pattern = FAMILIES[family(name) or ""]
            if not any(re.fullmatch(pattern, part) for part, _ in module.named_modules()):
                strangers.append(name)

        assert strangers == []


def models_without_memory() -> Iterator[tuple[str, torch.nn.Module]]:
    """Every model but the RegNets, which cannot be built without memory; they are all of one class."""
    for name in torchvision_models.architectures():
        if not name.startswith("regnet"):
            with torch.device("meta"):
                options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
                yield name, torchvision.models.get_model(name, weights=None, **options)
