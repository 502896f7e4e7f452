"""Toy networks of every layout, deterministic, and straightforward references to compare with."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.methods import METHODS
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.explain import Explained
    from service.cam.layers import Layer


def frozen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Seed, freeze and set ``model`` to eval mode, with BatchNorm statistics as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.2, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return model.eval().requires_grad_(requires_grad=False)


class Plain(nn.Module):
    """Convolution, BatchNorm and in-place ReLU, twice; pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x)).mean((2, 3)))
        return logits


class Residual(nn.Module):
    """A block with an in-place addition, and one ReLU module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.branch = nn.Conv2d(4, 8, 3, 1, 1)
        self.narrow = nn.Conv2d(8, 4, 1)
        self.block = nn.Identity()
        self.head = nn.Linear(4 * 16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.narrow(self.relu(self.branch(x)))
        y += x
        logits: Tensor = self.head(self.block(self.relu(y)).flatten(1))
        return logits


class Tokens(nn.Module):
    """A small transformer: patches, a class token, one attention block, the class token read."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.norm1 = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, 16, 8)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1)  # (N, 17, 8)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        logits: Tensor = self.head(self.norm2(x)[:, 0])
        return logits


class ChannelsLast(nn.Module):
    """Works on (N, h, w, C), as Swin does."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Linear(6, 7)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).permute(0, 2, 3, 1))  # (N, 8, 8, 6)
        logits: Tensor = self.head(torch.tanh(self.mlp(x)).mean((1, 2)))
        return logits


def vit() -> nn.Module:
    """Build torchvision's vision transformer, small: 16 patches and a class token, two blocks of two heads."""
    model: nn.Module = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5
    )
    return model


# Family → (model, the layers that tests explain); all take (N, 3, 32, 32) and have five classes.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "plain": (Plain, ("first.1", "first", "second.0", "second")),
    "residual": (Residual, ("stem", "relu:0", "relu:1", "branch", "narrow", "block")),
    "tokens": (Tokens, ("patches", "norm1")),
    "channels_last": (ChannelsLast, ("norm", "mlp")),
    "vit": (vit, ("conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1")),
}


@cache
def prepared(family: str) -> tuple[nn.Module, tuple[Layer, ...]]:
    """Build a family's model, frozen, and the rows of its layers; shared by tests, which must not change it."""
    build, names = FAMILIES[family]
    model = frozen(build())
    return model, tuple(layers_of(model, *names))


def allowed() -> list[tuple[str, str]]:
    """List every (family, method) whose method applies to the family's model."""
    return [
        (f, m)
        for f in FAMILIES
        for m, method in METHODS.items()
        if method.refuses(EagerNetwork(prepared(f)[0]), images(2)) is None
    ]


def images(n: int = 4, seed: int = 1) -> Tensor:
    """Random inputs, (n, 3, 32, 32)."""
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def layers_of(model: nn.Module, *names: str) -> list[Layer]:
    """Rows of the catalogue, by name."""
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(model), images(2))}
    return [by_name[name] for name in names]


def reference_gradcam(model: nn.Module, image: Tensor, layer: Layer, target: int, *, signed: bool = False) -> Tensor:
    """Grad-CAM as a textbook has it: one image, full backward pass, no cut. Returns (h, w)."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        output.retain_grad()
        return output.clone()

    handle = model.get_submodule(layer.call.module).register_forward_hook(keep)
    try:
        model(image[None].clone().requires_grad_())[0, target].backward()
    finally:
        handle.remove()
    activation = kept[layer.call.call]
    assert activation.grad is not None
    a, g = layer.to_nchw(activation.detach())[0], layer.to_nchw(activation.grad)[0]  # (C, h, w)
    found = (g.mean((1, 2))[:, None, None] * a).sum(0)
    return found if signed else found.relu()


def nested(answer: Explained) -> list[list[Tensor]]:
    """Maps as ``[layer][method]``, each (targets, h, w); the layers and methods of ``answer`` differ."""
    found: dict[str, dict[str, list[Tensor]]] = {}
    for raw in answer.maps:
        found.setdefault(raw.layer, {}).setdefault(raw.method, []).append(raw.values)
    return [[torch.stack(values) for values in by_method.values()] for by_method in found.values()]


class Head(nn.Module):
    """A layer that gives out the image itself, and any function of it as logits."""

    def __init__(self, head: Callable[[Tensor], Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.layer = layer or nn.Identity()
        self.head = head
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


def linear(weights: Tensor, bias: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Two classes: the image times ``weights`` (C, h, w) plus ``bias``, and its negative."""

    def head(x: Tensor) -> Tensor:
        score = (x * weights).sum((1, 2, 3)) + bias
        return torch.stack([score, -score], dim=1)

    return head


def only_layer(model: nn.Module, image: Tensor, name: str = "layer") -> Layer:
    found = probe_layers(EagerNetwork(model), torch.rand(2, *image.shape))
    return next(layer for layer in found if layer.name == name)
