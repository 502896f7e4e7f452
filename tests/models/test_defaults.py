from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from service.cam.layers import Layer, LayerCall, Layout
from service.cam.targets import Targets, Top
from service.errors import ModelLoadError
from service.models.defaults import FAMILIES, default_layer
from service.models.host import HowTo, ModelHost
from service.models.loading import load_model
from service.models.sources import torchvision_models
from service.models.sources.source import Downloads
from service.models.torchvision_adapter import torchvision
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    "vit_b_16": ("encoder.layers.encoder_layer_11.ln_1", (768, 14, 14)),
    "wide_resnet50_2": ("layer4", (2048, 7, 7)),
}


def load_random(architecture: str, folder: Path, size: int | None = None) -> ModelHost:
    config = ModelConfig(architecture=architecture, weights="random", size=size)
    return load_model(config, "cpu", Downloads(folder, allowed=False))


def family(architecture: str) -> str | None:
    return max((name for name in FAMILIES if architecture.startswith(name)), key=len, default=None)


HEAVY = {"maxvit_t", "vgg11", "vit_b_16", "wide_resnet50_2"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in HEAVY else ()) for name in CONVENTIONAL],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelHost:
    return load_random(request.param, tmp_path_factory.getbasetemp())


@pytest.mark.slow  # some thirty networks are loaded, and measured
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


class TestFamilies:
    def test_every_classification_model_belongs_to_one(self) -> None:
        assert [name for name in torchvision_models.architectures() if family(name) is None] == []

    def test_every_family_has_a_representative_here(self) -> None:
        assert {family(name) for name in CONVENTIONAL} == set(FAMILIES) - {"shapes"}

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


class TestSmallInputs:
    @pytest.mark.parametrize(("size", "layer"), [(64, "layer4"), (32, "layer3"), (16, "layer2"), (8, "layer1")])
    def test_an_earlier_layer_serves_where_the_last_is_a_single_cell(
        self, size: int, layer: str, tmp_path: Path
    ) -> None:
        info = load_random("resnet18", tmp_path, size).info

        assert info.default_layer == layer
        assert info.layer("default").shape[1:] == (2, 2)


def layer(name: str, *, refused: str | None = None, branch: bool = False) -> Layer:
    note = refused or ("inside a branch" if branch else None)
    layout = Layout("nchw", 7, 7)
    return Layer(name, LayerCall(name), "Conv2d", "conv", (4, 7, 7), layout, 32, 0, note is None, refused is None, note)


class TestRules:
    def test_the_last_match_in_forward_order_wins(self) -> None:
        layers = [layer(f"encoder.layers.encoder_layer_{i}.ln_1") for i in (8, 9, 10, 11)]

        assert default_layer("vit_b_16", [*layers, layer("encoder.ln")]) == "encoder.layers.encoder_layer_11.ln_1"

    def test_a_pattern_is_the_whole_name(self) -> None:
        assert default_layer("resnet18", [layer("layer4"), layer("layer4.1.conv2"), layer("x.layer4")]) == "layer4"

    def test_a_branch_that_the_family_names_is_taken(self) -> None:
        layers = [layer("encoder.layers.encoder_layer_0.ln_1", branch=True), layer("encoder.dropout")]

        assert default_layer("vit_b_16", layers) == "encoder.layers.encoder_layer_0.ln_1"

    def test_a_layer_on_every_path_serves_where_the_familys_is_refused(self) -> None:
        layers = [
            layer("layer2"),
            layer("layer3"),
            layer("layer4.0.conv1", branch=True),
            layer("layer4", refused="1×1"),
        ]

        assert default_layer("resnet18", layers) == "layer3"

    def test_a_layer_on_every_path_serves_an_unknown_family(self) -> None:
        assert default_layer("mine", [layer("a"), layer("b"), layer("b.left", branch=True)]) == "b"

    def test_a_branch_is_better_than_nothing(self) -> None:
        assert default_layer("mine", [layer("left", branch=True), layer("pool", refused="1×1")]) == "left"

    def test_what_lies_on_every_path_in_the_first_half_is_too_early(self) -> None:
        late = [layer(name, branch=True) for name in ("b", "b.1", "c", "c.1")]

        assert default_layer("mine", [layer("a"), *late]) == "c.1"
        assert default_layer("mine", [layer("a"), layer("a.1"), layer("a.2"), *late[:2]]) == "a.2"

    def test_of_late_branches_a_layer_that_only_projects_is_not_taken(self) -> None:
        late = [layer("norm", branch=True), replace(layer("qkv", branch=True), kind="linear")]

        assert default_layer("mine", [layer("a"), layer("b", branch=True), *late]) == "norm"

    def test_a_layer_with_a_gradient_is_better_than_a_later_one_without(self) -> None:
        cut = replace(layer("b"), no_gradient="detached")

        assert default_layer("mine", [layer("a"), cut]) == "a"
        assert default_layer("mine", [replace(layer("a"), no_gradient="detached"), cut]) == "b"

    def test_where_all_grids_are_refused_the_reason_is_told(self) -> None:
        with pytest.raises(ModelLoadError, match=r"its last layer with rows and columns, 'pool', is refused: 1×1\.$"):
            default_layer("mine", [layer("head", refused="flat"), layer("pool", refused="1×1")])

    def test_the_longest_family_name_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(FAMILIES, "resnetx", "stage9")

        assert default_layer("resnetx18", [layer("stage9"), layer("layer4")]) == "stage9"
        assert default_layer("resnet18", [layer("stage9"), layer("layer4")]) == "layer4"

    @pytest.mark.parametrize("layers", [[], [layer("pool", refused="1×1")]], ids=["none at all", "all refused"])
    def test_nothing_to_explain(self, layers: list[Layer]) -> None:
        with pytest.raises(ModelLoadError, match="cannot be explained"):
            default_layer("resnet18", layers)
