"""A model that goes wrong when a picture says so: how faults get into real workers.

Nothing in the service knows of this. A fault needs this model, which lies outside the package, and a picture that
carries the mark: whoever serves other models cannot be hit.

``CAMSERVE_TESTS_FAULTS`` names a folder that remembers what has happened already, and holds the faults that no picture
triggers: a file ``memory`` with the number of pictures that fit, a file ``load`` that kills whoever loads a model.
"""

from __future__ import annotations

import ctypes
import os
import time
from enum import IntEnum
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

SIDE = 32
# No resampling, no normalisation: the model sees the very bytes of a SIDE × SIDE picture.
_OPTIONS = "size=32,resize=32,mode=squash,mean=0,std=1"
MODEL = f"tests.faults.network,{_OPTIONS}"
DEPENDENT = f"tests.faults.dependent,{_OPTIONS}"


class Fault(IntEnum):
    """What a marked picture does to the worker that computes it."""

    EXIT = 1
    SEGFAULT = 2
    HANG = 3
    DEVICE_ASSERT = 4
    SYSTEM_EXIT = 5
    RAISE = 6
    NAN = 7
    SLOW = 8


def picture(seed: int, fault: Fault | None = None, *, times: int = 255) -> bytes:
    """Draw a PNG of noise and a square, marked with a fault that happens the first ``times`` times; 255 is always."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 80, (SIDE, SIDE, 3), np.uint8)
    left, top = rng.integers(4, SIDE - 12, 2)
    pixels[top : top + 8, left : left + 8] = rng.integers(120, 255, 3, np.uint8)
    if fault is not None:
        pixels[0, 0] = _SIGNATURE
        pixels[0, 1] = (int(fault), times, 0)
        pixels[0, 2] = (seed >> 16 & 255, seed >> 8 & 255, seed & 255)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


_SIGNATURE = (201, 7, 143)


class Network(nn.Module):
    """Three convolutions, the same weights in every worker, and a look at each picture before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        _run_out_of_memory(len(x))
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        for row, pixels in enumerate((x[:, :, 0, :3].permute(0, 2, 1) * 255).round().int().tolist()):  # (3 pixels, RGB)
            if tuple(pixels[0]) == _SIGNATURE and _happens(pixels):
                logits = logits * _FAULTS[Fault(pixels[1][0])](row, logits)
        return logits


class Dependent(Network):
    """What a picture gets depends on the others in its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


def dependent() -> nn.Module:
    """A model that must not be served."""
    return Dependent()


def network() -> nn.Module:
    """The factory that the service is configured with."""
    if _folder() is not None and (_folder() / "load").exists():
        os._exit(9)
    return Network()


def _folder() -> Path:
    return Path(os.environ["CAMSERVE_TESTS_FAULTS"])


def _happens(pixels: list[list[int]]) -> bool:
    """Whether the picture's fault happens now; one that is limited leaves a file for each time."""
    times = pixels[1][1]
    if times == 255:
        return True
    for time_ in range(times):
        try:
            (_folder() / f"{pixels[1][0]}-{pixels[2]}-{time_}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False


def _run_out_of_memory(rows: int) -> None:
    limit = _folder() / "memory"
    if limit.exists() and rows > int(limit.read_text()):
        raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} pictures.")


def _exit(_row: int, _logits: Tensor) -> NoReturn:
    os._exit(3)


def _segfault(_row: int, logits: Tensor) -> Tensor:
    ctypes.string_at(0)
    return logits


def _hang(_row: int, _logits: Tensor) -> NoReturn:
    while True:
        time.sleep(1)


def _device_assert(_row: int, _logits: Tensor) -> NoReturn:
    raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def _system_exit(_row: int, _logits: Tensor) -> NoReturn:
    raise SystemExit(1)


def _raise(_row: int, _logits: Tensor) -> NoReturn:
    raise ValueError("this picture is poison")


def _nan(row: int, logits: Tensor) -> Tensor:
    factor = torch.ones_like(logits)
    factor[row] = torch.nan
    return factor


def _be_slow(_row: int, logits: Tensor) -> Tensor:
    time.sleep(1)
    return torch.ones_like(logits)


_FAULTS: dict[Fault, Callable[[int, Tensor], Tensor]] = {
    Fault.EXIT: _exit,
    Fault.SEGFAULT: _segfault,
    Fault.HANG: _hang,
    Fault.DEVICE_ASSERT: _device_assert,
    Fault.SYSTEM_EXIT: _system_exit,
    Fault.RAISE: _raise,
    Fault.NAN: _nan,
    Fault.SLOW: _be_slow,
}
