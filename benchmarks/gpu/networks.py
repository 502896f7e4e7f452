"""Networks that go wrong on a GPU as real ones do: by an index that is out of range, by memory that is not there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIDE = 32
# No resampling, no normalisation: the network sees the very bytes of a SIDE × SIDE picture.
_OPTIONS = "size=32,resize=32,mode=squash,mean=0,std=1"
FRAGILE = f"fragile=benchmarks.gpu.networks.fragile,{_OPTIONS}"
HUNGRY = f"hungry=benchmarks.gpu.networks.hungry,{_OPTIONS}"
_CLASSES = 5
# Of a GPU's memory, for each picture of a batch: nine fit, more do not.
_SHARE = 0.1


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, _CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


class _Fragile(_Small):
    """A picture that is red all over is looked up where nothing is: on a GPU, a device-side assert."""

    def forward(self, x: Tensor) -> Tensor:
        red = (x[:, 0].amin((1, 2)) > 0.9) & (x[:, 1:].amax((1, 2, 3)) < 0.1)
        return super().forward(x) + torch.zeros(1, _CLASSES, device=x.device)[red.long()]


class _Hungry(_Small):
    """Each picture of a batch takes a tenth of the GPU's memory while it is computed."""

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            taken = int(_SHARE * torch.cuda.get_device_properties(x.device).total_memory)
            torch.empty(len(x), taken, dtype=torch.uint8, device=x.device)
        return super().forward(x)


def fragile() -> nn.Module:
    return _Fragile()


def hungry() -> nn.Module:
    return _Hungry()
