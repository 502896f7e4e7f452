"""The layer catalogue of every classification model of torchvision, with random weights and small images."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.targets import CamOptions, Targets, Top
from service.models.defaults import default_layer, recommended
from service.models.sources.torchvision_models import architectures
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.cam.layers import Layer

# The longest beginning of a name counts. Small, and large enough for the default layer to be more than one cell.
SIZES = {"": 64, "alexnet": 96, "inception": 128, "maxvit": 224, "vit_h_14": 56, "vit_b_32": 96, "vit_l_32": 96}


def size_of(name: str) -> int:
    return SIZES[max((start for start in SIZES if name.startswith(start)), key=len)]


def build(name: str) -> nn.Module:
    """Build a model and fill its matrices from a small pool: its own initialisation would take longer than the rest."""
    options: dict[str, Any] = {"image_size": size_of(name)} if name.startswith("vit") else {}
    if name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "init_weights": False}
    random = [f"{kind}_{shape}_" for kind in ("kaiming", "xavier") for shape in ("uniform", "normal")]
    drawn = (*random, "uniform_", "normal_", "trunc_normal_")
    left: dict[str, Any] = dict.fromkeys(drawn, lambda tensor, *_, **__: tensor)
    with patch.multiple(nn.init, **left):
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    pool = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0))  # odd, so that rows differ
    for parameter_name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            scale = (2 / parameter[0].numel()) ** 0.5
            flat = parameter.detach().view(-1)
            for start in range(0, len(flat), len(pool)):
                part = flat[start : start + len(pool)]
                torch.mul(pool[: len(part)], scale, out=part)
        elif parameter_name.endswith("bias"):
            parameter.detach().copy_(0.1 * pool[: len(parameter)])
    return model.eval().requires_grad_(requires_grad=False)


def images(name: str, n: int) -> Tensor:
    size = size_of(name)
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


BRANCH = "parallel paths"
SQUEEZED = "1×1 output: no position is left to show"
FLAT = "its output has no rows and columns"
WINDOWS = "its axes are not the rows and columns of the picture"
UNREAD = "only the class token is read behind this layer: the gradient is zero on every patch"
UNCALLED = "never called in the forward pass"
USED = f"{UNCALLED} (the layer that holds it may use its weights)"

CALLS = {f"call {call} of 2 of this module" for call in (0, 1)}
SLOW = pytest.param("maxvit_t", marks=pytest.mark.slow)  # no small images: its windows have to fit

# One small model per family: some layers (kind, shape, stride, a part of the note), and what is recommended.
Row = tuple[str, tuple[int, ...], int | None, str | None]
FAMILIES: dict[str, tuple[dict[str, Row], tuple[str, ...]]] = {
    "alexnet": (
        {
            "features.0": ("conv", (64, 23, 23), 4, None),
            "features.11": ("activation", (256, 5, 5), 19, None),
            "features": ("block", (256, 2, 2), 48, None),
            "avgpool": ("pool", (256, 6, 6), 16, None),
            "classifier.1": ("linear", (4096,), None, f"{FLAT}: [4096]"),
        },
        ("features", "features.11"),
    ),
    "convnext_tiny": (
        {
            "features.0.0": ("conv", (96, 16, 16), 4, None),
            "features.1.0.block.2": ("norm", (96, 16, 16), 4, BRANCH),
            "features.5": ("block", (384, 4, 4), 16, None),
            "features.7.2.block": ("block", (768, 2, 2), 32, BRANCH),
            "features": ("block", (768, 2, 2), 32, None),
            "classifier.0": ("norm", (768, 1, 1), 64, SQUEEZED),
        },
        ("features", "features.5"),
    ),
    "densenet121": (
        {
            "features.pool0": ("pool", (64, 16, 16), 4, None),
            "features.denseblock4.denselayer16": ("block", (32, 2, 2), 32, BRANCH),
            "features.denseblock4": ("block", (1024, 2, 2), 32, None),
            "features": ("block", (1024, 2, 2), 32, None),
        },
        ("features", "features.denseblock3"),
    ),
    "efficientnet_b0": (
        {
            "features.1.0.block.1.avgpool": ("pool", (32, 1, 1), 64, SQUEEZED),
            "features.1.0.block.1": ("block", (32, 32, 32), 2, None),
            "features.2.1.block": ("block", (24, 16, 16), 4, BRANCH),
            "features.2.1.stochastic_depth": ("other", (24, 16, 16), 4, BRANCH),
            "features.1.0.stochastic_depth": ("other", (), None, UNCALLED),
            "features": ("block", (1280, 2, 2), 32, None),
        },
        ("features", "features.5"),
    ),
    "googlenet": (
        {
            "inception5b.branch3.1": ("block", (128, 2, 2), 32, BRANCH),
            "inception5b": ("block", (1024, 2, 2), 32, None),
            "dropout": ("other", (1024,), None, f"{FLAT}: [1024]"),
        },
        ("inception5b", "inception4e"),
    ),
    "inception_v3": (
        {
            "Mixed_6e": ("block", (768, 6, 6), 21, None),
            "Mixed_7c.branch_pool": ("block", (192, 2, 2), 64, BRANCH),
            "Mixed_7c": ("block", (2048, 2, 2), 64, None),
            "avgpool": ("pool", (2048, 1, 1), 128, SQUEEZED),
        },
        ("Mixed_7c", "Mixed_6e"),
    ),
    "mnasnet0_5": (
        {
            "layers.8.0.layers": ("block", (16, 16, 16), 4, None),
            "layers.8.1.layers": ("block", (16, 16, 16), 4, BRANCH),
            "layers": ("block", (1280, 2, 2), 32, None),
        },
        ("layers", "layers.11"),
    ),
    "mobilenet_v2": (
        {
            "features.2.conv.0": ("block", (96, 32, 32), 2, None),
            "features.3.conv": ("block", (24, 16, 16), 4, BRANCH),
            "features": ("block", (1280, 2, 2), 32, None),
        },
        ("features", "features.13"),
    ),
    "mobilenet_v3_small": (
        {
            "features.1.block.1.fc1": ("conv", (8, 1, 1), 64, SQUEEZED),
            "features.1.block.1": ("block", (16, 16, 16), 4, None),
            "features.12.2": ("activation", (576, 2, 2), 32, None),
        },
        ("features", "features.8"),
    ),
    "regnet_y_400mf": (
        {
            "trunk_output.block1.block1-0.f.se.fc1": ("conv", (8, 1, 1), 64, SQUEEZED),
            "trunk_output.block4.block4-5.f": ("block", (440, 2, 2), 32, BRANCH),
            "trunk_output.block4.block4-5.activation": ("activation", (440, 2, 2), 32, None),
            "trunk_output": ("block", (440, 2, 2), 32, None),
        },
        ("trunk_output", "trunk_output.block3"),
    ),
    "resnet18": (
        {
            "conv1": ("conv", (64, 32, 32), 2, None),
            "layer1.0.relu:0": ("activation", (64, 16, 16), 4, "call 0 of 2 of this module"),
            "layer1.0.relu:1": ("activation", (64, 16, 16), 4, "call 1 of 2 of this module"),
            "layer2.0.downsample": ("block", (128, 8, 8), 8, BRANCH),
            "layer4.1.bn2": ("norm", (512, 2, 2), 32, BRANCH),
            "layer4": ("block", (512, 2, 2), 32, None),
            "avgpool": ("pool", (512, 1, 1), 64, SQUEEZED),
            "fc": ("linear", (1000,), None, f"{FLAT}: [1000]"),
        },
        ("layer4", "layer3"),
    ),
    "shufflenet_v2_x0_5": (
        {
            "stage2.0.branch1": ("block", (24, 8, 8), 8, BRANCH),
            "stage2.1.branch2": ("block", (24, 8, 8), 8, BRANCH),
            "stage2.1.branch1": ("block", (), None, UNCALLED),
            "stage2.1": ("block", (48, 8, 8), 8, None),
            "conv5": ("block", (1024, 2, 2), 32, None),
        },
        ("conv5", "stage3"),
    ),
    "squeezenet1_0": (
        {
            "features.3.squeeze": ("conv", (16, 14, 14), 5, None),
            "features.3.expand3x3": ("conv", (64, 14, 14), 5, BRANCH),
            "features": ("block", (512, 3, 3), 21, None),
            "classifier.1": ("conv", (1000, 3, 3), 21, None),
            "classifier": ("block", (1000, 1, 1), 64, SQUEEZED),
        },
        ("features", "features.10"),
    ),
    "swin_t": (
        {
            "features.0.1": ("other", (96, 16, 16), 4, None),
            "features.1.0.attn": ("attention", (96, 16, 16), 4, BRANCH),
            "features.1.0.attn.qkv": ("linear", (), None, USED),
            "features.1.0.stochastic_depth:1": ("other", (96, 16, 16), 4, "call 1 of 2 of this module"),
            "features.1.0": ("block", (96, 16, 16), 4, None),
            "features.2.norm": ("norm", (384, 8, 8), 8, None),
            "features.2": ("block", (192, 8, 8), 8, None),
            "features": ("block", (768, 2, 2), 32, None),
            "permute": ("other", (768, 2, 2), 32, None),
            "avgpool": ("pool", (768, 1, 1), 64, SQUEEZED),
        },
        ("features", "features.5"),
    ),
    "swin_v2_t": (
        {
            "features.1.0.attn.cpb_mlp.1": (
                "activation",
                (15, 15, 512),
                None,
                "its output has not one row per picture",
            ),
            "features.1.0.norm1": ("norm", (96, 16, 16), 4, BRANCH),
            "features.2.reduction": ("linear", (192, 8, 8), 8, None),
            "features": ("block", (768, 2, 2), 32, None),
        },
        ("features", "features.5"),
    ),
    "vgg11": (
        {
            "features.18": ("conv", (512, 4, 4), 16, None),
            "features.19": ("activation", (512, 4, 4), 16, None),
            "features": ("block", (512, 2, 2), 32, None),
            "avgpool": ("pool", (512, 7, 7), 9, None),
            "classifier": ("block", (1000,), None, f"{FLAT}: [1000]"),
        },
        ("features", "features.19"),
    ),
    "vit_b_16": (
        {
            "conv_proj": ("conv", (768, 4, 4), 16, None),
            "encoder.dropout": ("other", (768, 4, 4), 16, None),
            "encoder.layers.encoder_layer_0.mlp.1": ("activation", (3072, 4, 4), 16, BRANCH),
            "encoder.layers.encoder_layer_11.ln_1": ("norm", (768, 4, 4), 16, BRANCH),
            "encoder.layers.encoder_layer_11.self_attention": ("attention", (768, 4, 4), 16, UNREAD),
            "encoder.layers.encoder_layer_10.self_attention": ("attention", (768, 4, 4), 16, BRANCH),
            "encoder.layers.encoder_layer_11.self_attention.out_proj": ("linear", (), None, USED),
            "encoder.layers.encoder_layer_10": ("block", (768, 4, 4), 16, None),
            "encoder.layers.encoder_layer_11": ("block", (768, 4, 4), 16, UNREAD),
            "encoder.ln": ("norm", (768, 4, 4), 16, UNREAD),
            "heads": ("block", (1000,), None, f"{FLAT}: [1000]"),
        },
        ("encoder.layers.encoder_layer_11.ln_1", "encoder.layers.encoder_layer_7.ln_1"),
    ),
    "maxvit_t": (
        {
            "stem": ("block", (64, 112, 112), 2, None),
            "blocks.0.layers.0.layers.window_attention.partition_op": (
                "other",
                (64, 49, 64),
                None,
                f"{WINDOWS}: [64, 49, 64]",
            ),
            "blocks.0.layers.0.layers.grid_attention.partition_op": (
                "other",
                (49, 64, 64),
                None,
                f"{WINDOWS}: [49, 64, 64]",
            ),
            "blocks.0.layers.0.layers.grid_attention.departition_swap": (
                "other",
                (49, 64, 64),
                None,
                f"{WINDOWS}: [49, 64, 64]",
            ),
            "blocks.0.layers.0.layers.grid_attention.attn_layer.1": (
                "attention",
                (64, 49, 64),
                None,
                f"{WINDOWS}: [64, 49, 64]",
            ),
            "blocks.0.layers.0.layers.grid_attention": ("attention", (64, 56, 56), 4, None),
            "blocks.0.layers.1.layers.MBconv.layers": ("block", (64, 56, 56), 4, BRANCH),
            "blocks.0.layers": ("block", (), None, "holds layers and is not called itself"),
            "blocks.3": ("block", (512, 7, 7), 32, None),
        },
        ("blocks.3", "blocks.2"),
    ),
}


@pytest.mark.parametrize("name", [*(each for each in FAMILIES if each != "maxvit_t"), SLOW])
def test_the_catalogue_of_each_family(name: str) -> None:
    model = build(name)
    layers = probe_layers(EagerNetwork(model), images(name, 2))
    rows, wanted = FAMILIES[name]
    by_name = {layer.name: layer for layer in layers}
    for layer_name, (kind, shape, stride, note) in rows.items():
        layer = by_name[layer_name]
        assert (layer.name, layer.kind, layer.shape, layer.stride) == (layer_name, kind, shape, stride)
        assert (note in (layer.note or "")) if note else layer.note is None, layer
        assert layer.explainable == (len(shape) == 3 and shape[1:] != (1, 1) and note in {None, BRANCH, *CALLS}), layer
    assert recommended(layers, default_layer(name, layers)) == wanted


def test_auxiliary_heads_are_off() -> None:
    """Published weights of GoogLeNet and Inception bring them; they have no part in the answer."""
    with patch.multiple(nn.init, trunc_normal_=lambda tensor, *_, **__: tensor):
        model = torchvision.models.get_model("googlenet", weights=None, init_weights=False, aux_logits=True)
    layers = probe_layers(EagerNetwork(model.eval().requires_grad_(requires_grad=False)), images("googlenet", 2))
    heads = [layer for layer in layers if layer.name.startswith("aux")]
    assert {"aux1", "aux1.conv.conv", "aux2.fc2"} <= {layer.name for layer in heads}
    assert {layer.note for layer in heads} == {UNCALLED}


@pytest.fixture
def memory() -> Iterator[None]:
    """The largest models take gigabytes: nothing of one is left when the next begins."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("memory")
@pytest.mark.parametrize("name", architectures())
def test_every_layer_is_explained_or_refused_with_a_reason(name: str) -> None:
    model = build(name)
    layers = probe_layers(EagerNetwork(model), images(name, 2))
    default = default_layer(name, layers)

    assert [layer.name for layer in layers if not (layer.explainable or layer.note)] == []
    possible = [layer for layer in layers if layer.explainable]
    maps = explain_all(model, images(name, 1), possible)
    for layer in possible:
        assert maps[layer.name].shape == layer.shape[1:], layer
        assert maps[layer.name].isfinite().all(), layer
    assert maps[default].std() > 1e-3 * maps[default].abs().max() > 0
    assert default == recommended(layers, default)[0]
    assert set(recommended(layers, default)) <= set(maps)
    assert len(set(recommended(layers, default))) > 1, "there is always something to compare with"


def explain_all(model: nn.Module, image: Tensor, layers: list[Layer]) -> dict[str, Tensor]:
    """Grad-CAM of the predicted class at all layers: one pass forward, one back. Signed, lest the ReLU hide faults."""
    (answer,) = explain(EagerNetwork(model), image, [Targets((Top(1),))], layers, ("gradcam",), CamOptions(signed=True))
    return {raw.layer: raw.values for raw in answer.maps}
