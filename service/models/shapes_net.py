"""The network of the embedded demo models: a small residual CNN with torchvision's stage names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

INPUT_SIZE: Final = 96
"""Side of the square input in pixels: resize the shorter side to it (bilinear, antialiased), then crop the centre."""

MEAN: Final = (0.5, 0.5, 0.5)
"""Per-channel mean that is subtracted from pixels scaled to 0–1."""

STD: Final = (0.25, 0.25, 0.25)
"""Per-channel divisor after the mean is subtracted."""

_WIDTHS: Final = (16, 32, 64, 80)
# The last stage keeps its stride at 1. Its grid is then 12×12, fine enough for heatmaps of objects 24 px across.
_STRIDES: Final = (1, 2, 2, 1)
_BLOCKS_PER_STAGE: Final = 2


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around a shortcut: `(N, in, H, W)` to `(N, out, H / stride, W / stride)`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's rectified output, never negative."""
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + self.downsample(x))
        return out


class ShapesNet(nn.Module):
    """Classifies `(N, 3, 96, 96)` normalised images into `num_classes` silhouettes.

    Modules carry torchvision's ResNet names: `stem`, `layer1` to `layer4` (blocks `layer3.0`, `layer3.1`, …),
    `avgpool`, `fc`. The stages' grids are 48, 24, 12 and 12 cells wide.
    """

    def __init__(self, num_classes: int = 12) -> None:
        super().__init__()
        width = _WIDTHS[0]
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.layer1 = _stage(width, _WIDTHS[0], _STRIDES[0])
        self.layer2 = _stage(_WIDTHS[0], _WIDTHS[1], _STRIDES[1])
        self.layer3 = _stage(_WIDTHS[1], _WIDTHS[2], _STRIDES[2])
        self.layer4 = _stage(_WIDTHS[2], _WIDTHS[3], _STRIDES[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(_WIDTHS[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, `(N, num_classes)`."""
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(out_channels, out_channels) for _ in range(_BLOCKS_PER_STAGE - 1)]
    return nn.Sequential(BasicBlock(in_channels, out_channels, stride), *rest)
