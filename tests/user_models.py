"""Models as users bring them: factories that the service loads by dotted name, in its worker processes."""

from __future__ import annotations

import random
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable


class Trunk(nn.Module):
    """Three convolutions; the seed makes every worker's weights the same."""

    def __init__(self, read: Callable[[Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.coarse = nn.Linear(8, 3)
        self.fine = nn.Linear(8, 7)
        self._read = read

    def forward(self, x: Tensor) -> object:
        return self._read(self.body(x).mean((2, 3)))


class Outputs(NamedTuple):
    """What ``two_heads`` returns."""

    coarse: Tensor
    fine: Tensor
    embedding: Tensor


def one_head() -> nn.Module:
    """Three classes."""
    model = Trunk(lambda features: model.coarse(features))  # noqa: PLW0108  # it does not exist yet
    return model


def drawn_at_random() -> nn.Module:
    """Weights that differ whenever they are made, of all that code may draw from."""
    body = nn.Conv2d(3, 8, 3, 2, 1)
    head = nn.Linear(8, 3)
    with torch.no_grad():
        body.weight += torch.from_numpy(np.random.rand(*body.weight.shape)) + random.random()
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


def with_a_buffer() -> nn.Module:
    """A buffer of 1000 numbers, and weights that two layers share."""
    model = Trunk(lambda features: model.coarse(features))  # noqa: PLW0108  # it does not exist yet
    model.register_buffer("table", torch.zeros(1000))
    model.register_module("again", model.coarse)
    return model


def two_heads() -> nn.Module:
    """A named tuple of two heads and something that is none."""
    model = Trunk(lambda features: Outputs(model.coarse(features), model.fine(features), features[:, None]))
    return model


def one_logit() -> nn.Module:
    """One output, as of a network trained with the binary cross entropy of logits."""
    model = Trunk(lambda features: model.coarse(features)[:, :1])
    return model


def probabilities() -> nn.Module:
    """Three classes, and a softmax at the end."""
    model = Trunk(lambda features: (5 * model.coarse(features)).softmax(1))
    return model


def fails_on_black() -> nn.Module:
    """Three classes; raises for a picture of one colour, black for example."""
    model = Trunk(lambda features: model.coarse(features))  # noqa: PLW0108  # it does not exist yet

    def refuse(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if (inputs[0].amax((2, 3)) == inputs[0].amin((2, 3))).all(1).any():
            raise RuntimeError("this model is afraid of the dark")

    model.register_forward_pre_hook(refuse)
    return model


def without_gradients() -> nn.Module:
    """Three classes, computed under torch.no_grad()."""
    model = Trunk(lambda features: model.coarse(features))  # noqa: PLW0108  # it does not exist yet
    model.forward = torch.no_grad()(model.forward)  # type: ignore[method-assign]
    return model


class Ensemble(nn.Module):
    """The mean of several models."""

    def __init__(self, *members: nn.Module) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def ensemble() -> nn.Module:
    """Two models of three classes."""
    return Ensemble(one_head(), one_head())


def fails() -> nn.Module:
    """Raises."""
    raise ValueError("the recipe is missing")


def no_module() -> object:
    """Returns something else."""
    return "resnet50"


def needs_classes(classes: int, width: int = 8) -> nn.Module:
    """Cannot be called without arguments."""
    torch.manual_seed(0)
    body = nn.Conv2d(3, 24 // classes * width, 3, 2, 1)
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(body.out_channels, classes))


class Builder:
    """Functions within a class."""

    small = staticmethod(one_head)


READY = nn.Conv2d(3, 3, 1)


def needs_timm() -> nn.Module:
    """Imports what is not there."""
    import timm_absent  # type: ignore[import-not-found]

    module: nn.Module = timm_absent.create_model()
    return module


def slow(seconds: float) -> nn.Module:
    """Three classes, after a while."""
    time.sleep(seconds)
    return one_head()


def scripted() -> nn.Module:
    """TorchScript, which runs no hooks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        module: nn.Module = torch.jit.script(nn.ReLU())
    return module


def spoiled_in_bfloat16() -> nn.Module:
    """Logits three times too large in bfloat16, as a fast path with a mistake might have them."""
    model = Trunk(lambda features: model.coarse(features) * (3 if features.dtype == torch.bfloat16 else 1))
    return model


class Moody(nn.Module):
    """Normalises bright pictures otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        normalised = self.norm(features)
        features = features + normalised if x.mean() > 1 else normalised
        logits: Tensor = self.head(features.relu().mean((2, 3)))
        return logits


def otherwise_when_bright() -> nn.Module:
    """Code that a picture takes another way through than the noise at load."""
    return Moody()
