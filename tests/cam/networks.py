"""torchvision's architectures as training leaves them: statistics that have settled, gradients that do not explode.

No trained weights are at hand, and a network that is merely initialised is no stand-in: see ``settled``.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.perturbation import noise_like
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CLASSES", "LARGE", "NARROW", "pictures", "settled"]

CLASSES = 5

# What a residual branch ends with, next to what other norms do: training leaves little of it, or starts with none.
_BRANCH = 0.3

_models = torchvision.models


def pictures(size: int, seed: int, count: int = 3) -> Tensor:
    """Pictures (count, 3, size, size) with something at every scale, as photos have; they differ as a whole, too."""
    generator = torch.Generator().manual_seed(seed)
    total = 0.1 * torch.randn(count, 3, size, size, generator=generator)
    for cells in (2, 4, 8, 16):
        coarse = torch.randn(count, 3, cells, cells, generator=generator)
        total += functional.interpolate(coarse, (size, size), mode="bilinear") / 1.5
    return total


def settled(build: Callable[[], nn.Module], size: int) -> nn.Module:
    """Build a network, seeded, as training on pictures of ``size`` × ``size`` pixels leaves one.

    Statistics of batch normalisation are those of pictures, and of what methods make of them: noisy and masked ones.
    With statistics of white noise, noisy copies of a picture make activations grow from block to block of EfficientNet:
    gradients reach 10^6, and rounding decides over them. Residual branches are damped: gradients grow with the depth.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            _train(module)
        for module in model.modules():
            if getattr(module, "use_res_connect", False):
                _last_norm(module).weight.data.mul_(_BRANCH)
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                nn.init.uniform_(parameter, 0.1, 0.5)  # at 1e-6, as it starts, blocks do nothing
        seen = pictures(size, seed=99, count=16)
        noisy = torch.cat([(seen + noise_like(seen, sample))[sample::4] for sample in range(4)])
        masks = functional.interpolate(torch.rand(16, 1, 4, 4) ** 2, (size, size), mode="bilinear")
        with torch.no_grad():
            model.train()(torch.cat([seen, noisy, seen * masks]))
    return model.eval().requires_grad_(requires_grad=False)


def _train(module: nn.Module) -> None:
    """Set a module's parameters as training leaves them: norms are not all ones and zeros."""
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, std=0.2)
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = None  # running statistics become those of the data
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)  # torchvision starts ViT's head with zeros
    if isinstance(module, nn.Dropout | torchvision.ops.StochasticDepth):
        module.p = 0.0


def _last_norm(block: nn.Module) -> nn.BatchNorm2d:
    return [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)][-1]


def _vit(layers: int, width: int, heads: int, size: int) -> nn.Module:
    model: nn.Module = _models.VisionTransformer(
        image_size=size,
        patch_size=8,
        num_layers=layers,
        num_heads=heads,
        hidden_dim=width,
        mlp_dim=4 * width,
        num_classes=CLASSES,
    )
    return model


def _maxvit(width: int, size: int) -> nn.Module:
    model: nn.Module = _models.MaxVit(
        input_size=(size, size),
        stem_channels=width,
        partition_size=2,
        block_channels=[width, 2 * width],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
    )
    return model


def _swin(width: int, heads: int, depth: int, version: int) -> nn.Module:
    parts = {
        "block": _models.swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": _models.swin_transformer.PatchMergingV2,
    }
    model: nn.Module = _models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=width,
        depths=[2, depth],
        num_heads=[heads, 2 * heads],
        window_size=[4, 4],
        stochastic_depth_prob=0.0,
        num_classes=CLASSES,
        **(parts if version == 2 else {}),
    )
    return model


def _convnext(width: int) -> nn.Module:
    block = _models.convnext.CNBlockConfig
    model: nn.Module = _models.ConvNeXt([block(width, 2 * width, 1), block(2 * width, None, 2)], num_classes=CLASSES)
    return model


def _efficientnet() -> nn.Module:
    block = _models.efficientnet.MBConvConfig
    blocks = [block(1, 3, 1, 8, 8, 1), block(4, 3, 2, 8, 12, 2), block(4, 5, 2, 12, 16, 2)]
    model: nn.Module = _models.EfficientNet(blocks, dropout=0.0, num_classes=CLASSES, last_channel=48)
    return model


def _mobilenet_v3() -> nn.Module:
    block = partial(_models.mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(8, 3, 16, 8, use_se=True, activation="RE", stride=1),
        block(8, 5, 24, 16, use_se=True, activation="HS", stride=2),
        block(16, 5, 48, 16, use_se=True, activation="HS", stride=1),
    ]
    model: nn.Module = _models.MobileNetV3(blocks, last_channel=32, num_classes=CLASSES)
    return model


def _regnet() -> nn.Module:
    blocks = _models.regnet.BlockParams([1, 2], [16, 32], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25)
    model: nn.Module = _models.RegNet(blocks, num_classes=CLASSES, stem_width=8)
    return model


def _vgg() -> nn.Module:
    features = _models.vgg.make_layers([8, "M", 16, "M", 32, 32], batch_norm=True)
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


def _densenet() -> nn.Module:
    model: nn.Module = _models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=CLASSES)
    return model


def _shufflenet() -> nn.Module:
    model: nn.Module = _models.ShuffleNetV2([2, 2, 2], [8, 16, 24, 32, 48], num_classes=CLASSES)
    return model


class _Wide(nn.Module):
    """512 channels before and behind every kind of norm and activation, down to a millionth as bright as the brightest.

    Training leaves such channels in real networks, where it turns down the weight of a norm.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.silu = nn.Conv2d(3, 512, 8, 8), nn.BatchNorm2d(512), nn.SiLU()
        self.middle, self.group_norm, self.gelu = nn.Conv2d(512, 512, 1, groups=32), nn.GroupNorm(32, 512), nn.GELU()
        self.last, self.layer_norm = nn.Conv2d(512, 512, 1, groups=32), nn.LayerNorm(512)
        self.scale = nn.Parameter(torch.logspace(-6, 0, 512)[:, None, None])
        self.head = nn.Linear(512, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.silu(self.norm(self.stem(x)) * self.scale)
        x = self.last(self.gelu(self.group_norm(self.middle(x))))
        logits: Tensor = self.head(self.layer_norm(x.permute(0, 2, 3, 1)).mean((1, 2)))
        return logits


NARROW: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convnext": (partial(_convnext, 12), 32),
    "densenet": (_densenet, 32),
    "efficientnet": (_efficientnet, 32),
    "maxvit": (partial(_maxvit, 16, 32), 32),
    "mobilenet_v3": (_mobilenet_v3, 32),
    "regnet": (_regnet, 32),
    "shufflenet": (_shufflenet, 32),
    "swin": (partial(_swin, 12, 2, 2, 1), 32),
    "swin_v2": (partial(_swin, 24, 2, 2, 2), 32),
    "vgg": (_vgg, 32),
    "vit_deep": (partial(_vit, 4, 16, 2, 32), 32),
    "wide": (_Wide, 32),
}
"""Small networks of every family, for methods that run them once for every channel: (builder, side in pixels)."""


def _large(name: str, **options: object) -> Callable[[], nn.Module]:
    return partial(getattr(_models, name), weights=None, num_classes=CLASSES, **options)


LARGE: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "convnext_tiny": (_large("convnext_tiny"), 64),
    "densenet121": (_large("densenet121"), 64),
    "efficientnet_b0": (_large("efficientnet_b0"), 64),
    "googlenet": (_large("googlenet", aux_logits=False, init_weights=False), 64),
    "inception_v3": (_large("inception_v3", aux_logits=False, init_weights=False), 96),
    "maxvit_wide": (partial(_maxvit, 64, 64), 64),
    "mobilenet_v2": (_large("mobilenet_v2"), 64),
    "mobilenet_v3_small": (_large("mobilenet_v3_small"), 64),
    "regnet_y_400mf": (_large("regnet_y_400mf"), 64),
    "resnet18": (_large("resnet18"), 64),
    "shufflenet_v2_x0_5": (_large("shufflenet_v2_x0_5"), 64),
    "squeezenet1_0": (_large("squeezenet1_0"), 64),
    "squeezenet1_1": (_large("squeezenet1_1"), 64),
    "swin_t": (_large("swin_t"), 64),
    "swin_v2_t": (_large("swin_v2_t"), 64),
    "vgg11": (_large("vgg11"), 64),
    "vgg11_bn": (_large("vgg11_bn"), 64),
    "vit": (partial(_vit, 12, 192, 3, 64), 64),  # as wide and as deep as DeiT-tiny
}
"""Families in the widths and depths that are in use, at sides that leave their last layers some cells."""
