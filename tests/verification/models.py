"""Networks that read one pixel, so that what a drop must be can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.cam.models import frozen, vit

SIDE = 128
ROW, COLUMN = 40, 72


class Spot(nn.Module):
    """Ten times the first channel at (``ROW``, ``COLUMN``), and its negation."""

    def __init__(self, channels: int = 3, width: int = SIDE) -> None:
        super().__init__()
        self.pixels = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.zeros_(self.pixels.weight)
        with torch.no_grad():
            self.pixels.weight[0, 0] = 10
        self.column = COLUMN * width // SIDE

    def forward(self, x: Tensor) -> object:
        score = self.pixels(x)[:, 0, ROW, self.column]
        return self.said(torch.stack([score, -score], 1))

    def said(self, logits: Tensor) -> object:
        return logits


def transformer() -> nn.Module:
    """A vision transformer whose blocks can be told apart."""
    return frozen(vit())


class Small(nn.Module):
    """A convolution and a linear head of so many outputs."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.ReLU())
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


class Stubborn(Small):
    """Remembers how many pictures there are, and insists on as many rows behind its head."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.new_zeros(len(x), 1).expand(len(x), 5) * 2


def single_head() -> nn.Module:
    """One output, of a layer whose weights are known."""
    torch.manual_seed(0)
    return frozen(Small(1))


def stubborn() -> nn.Module:
    """See there."""
    torch.manual_seed(0)
    return frozen(Stubborn(5))


class Probable(Spot):
    """Says probabilities."""

    def said(self, logits: Tensor) -> object:
        return logits.sigmoid()


class Single(Spot):
    """Has one output."""

    def said(self, logits: Tensor) -> object:
        return logits[:, :1]


class TwoHeads(Spot):
    """Has a second output, which sees nothing but the opposite."""

    def said(self, logits: Tensor) -> object:
        return {"main": logits, "other": torch.cat([-logits, logits], 1)}
