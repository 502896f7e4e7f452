"""Models that are each broken in one way, as the code of users builds them; ``good`` is not broken."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class Net(nn.Module):
    """Two convolutions and a linear layer; ``change`` is what is wrong with it, given the input and the logits."""

    def __init__(self, change: Callable[[Tensor, Tensor], Tensor] = lambda _x, logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(8, 3)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(x, self.head(self.body(x).mean((2, 3))))


def good() -> nn.Module:
    return Net()


def mixes_rows() -> nn.Module:
    return Net(lambda _x, logits: logits - logits.mean(0))


def flips_coins() -> nn.Module:
    return Net(lambda x, logits: logits + torch.randint(2, (len(x), 1)))


def mixes_rows_of_pictures() -> nn.Module:
    """Mixes rows where neighbouring pixels are alike, which those of noise never are."""

    def change(x: Tensor, logits: Tensor) -> Tensor:
        alike = (x[..., 1:] - x[..., :-1]).abs().mean() < 0.7
        return logits - logits.mean(0) * alike

    return Net(change)


def without_gradients() -> nn.Module:
    net = Net()
    net.forward = torch.no_grad()(net.forward)  # type: ignore[method-assign]
    return net


def fails_on_pictures() -> nn.Module:
    def change(x: Tensor, logits: Tensor) -> Tensor:
        if len(x) == 8:
            raise ValueError("eight are too many")
        return logits

    return Net(change)


def grey() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def prints() -> nn.Module:
    sys.stdout.write("loading the weights\n")
    os.write(1, b"and on its descriptor\n")
    return Net()


def hangs() -> nn.Module:
    time.sleep(600)
    return Net()


def hangs_with_a_child() -> nn.Module:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False, check=False)
    return Net()


def closes_what_it_did_not_open() -> nn.Module:
    os.closerange(3, 256)
    time.sleep(600)
    return Net()


def writes_into_what_it_did_not_open() -> nn.Module:
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b'\xff\xfe nonsense\n[1, 2]\n{"begins": "nothing"}\n{"step": "nothing"}\n')
    return Net()


def raises_what_cannot_be_written() -> nn.Module:
    raise RuntimeError("\ud83d \x1b[31m" + "x" * 1_000_000)


def exits() -> nn.Module:
    os._exit(0)


def ends_python() -> nn.Module:
    sys.exit(3)


def crashes() -> nn.Module:
    os.kill(os.getpid(), signal.SIGSEGV)
    return Net()


def is_killed_later() -> nn.Module:
    """Is killed by the first batch of eight, as by the kernel for the memory that this takes."""

    def change(x: Tensor, logits: Tensor) -> Tensor:
        if len(x) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        return logits

    return Net(change)


def needs_timm() -> nn.Module:
    import timm_absent  # type: ignore[import-not-found]

    module: nn.Module = timm_absent.create_model()
    return module
