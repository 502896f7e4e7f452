"""Modules that normalise and do more, as timm's ``BatchNormAct2d``: folded where they call PyTorch's function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.targets import Targets
from tests.cam.models import images, layers_of
from tests.cam.test_folding import Net, frozen, normalisation, quick

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES = images(3)


class NormAct(nn.BatchNorm2d):
    """A normalisation, a dropout and an activation, written as timm's."""

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__(channels)
        self.load_state_dict(normalisation(channels).state_dict())
        self.drop, self.act = nn.Identity(), act

    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        )

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 4
        found: Tensor = self.act(self.drop(self.normalised(x)))
        return found


class Looks(NormAct):
    def normalised(self, x: Tensor) -> Tensor:
        return super().normalised(x * 2)


class NormalisesOtherwise(NormAct):
    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight * 2, self.bias, eps=self.eps)


class NormalisesByTheBatch(NormAct):
    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training=True)


class OfAnotherEpsilon(NormAct):
    def normalised(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.5)


class Twofold(Net):
    """A block with such a module, and one of PyTorch's own."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(self.stem(x)))


def folded_names(net: nn.Module) -> set[str]:
    names = {module: name for name, module in net.named_modules()}
    return {names[fold.normalisation] for fold in quick(net)._folds if fold.normalisation is not None}


def assert_the_same(net: nn.Module, *layers: str) -> None:
    found, own = quick(net), EagerNetwork(frozen(net))
    torch.testing.assert_close(found.predict(IMAGES), own.predict(IMAGES))
    asked: Any = [Targets((1,))] * 3, layers_of(net, *layers), ["gradcam"]
    for mine, others in zip(explain(found, IMAGES, *asked), explain(own, IMAGES, *asked), strict=True):
        for one, other in zip(mine.maps, others.maps, strict=True):
            torch.testing.assert_close(one.values, other.values)


@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Identity(), nn.PReLU()], ids=repr)
def test_it_is_folded_and_so_is_its_activation(act: nn.Module) -> None:
    net = Twofold(NormAct(3, act))
    assert folded_names(net) == {"norm", "bn"}
    fuses = isinstance(act, nn.ReLU | nn.SiLU)
    assert [fold.waits for fold in quick(net)._folds if fold.convolution is net.stem] == [fuses]
    assert_the_same(net, "stem", "norm", "norm.act", "bn")


@pytest.mark.parametrize("kind", [Looks, NormalisesOtherwise, OfAnotherEpsilon])
def test_where_it_does_something_else_only_the_others_are_folded(kind: Callable[[int, nn.Module], NormAct]) -> None:
    net = Twofold(kind(3, nn.ReLU()))
    assert folded_names(net) == {"bn"}
    assert_the_same(net, "stem", "norm", "bn")


def test_one_that_normalises_by_the_batch_is_left_as_it_is() -> None:
    net = Twofold(NormalisesByTheBatch(3, nn.ReLU()))
    assert folded_names(net) == {"bn"}
    torch.testing.assert_close(quick(net).predict(IMAGES), EagerNetwork(net).predict(IMAGES))


class ByThePicture(NormAct):
    """Normalises otherwise once it is told to."""

    otherwise = False

    def normalised(self, x: Tensor) -> Tensor:
        eps = 0.5 if self.otherwise else self.eps
        return functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=eps)


def test_what_it_does_otherwise_than_at_load_is_computed_by_the_modules_as_they_are() -> None:
    norm = ByThePicture(3, nn.ReLU())
    net = Twofold(norm)
    found = quick(net)
    before = found.predict(IMAGES)
    norm.otherwise = True
    after = found.predict(IMAGES)
    torch.testing.assert_close(after, EagerNetwork(net).predict(IMAGES))
    assert not torch.allclose(before, after)
    assert not found.more_bytes, "the others are not folded any more, either"
