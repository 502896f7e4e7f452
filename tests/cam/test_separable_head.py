"""Heads with a channel for every class: gradients of many targets, found together, are those of each by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.capture import gradients
from service.cam.derivatives import differentiate
from service.cam.eager import EagerNetwork
from service.cam.layers import LayerCall
from service.cam.separable_head import SeparableHead
from service.errors import MethodNotApplicable
from tests.cam.models import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.capture import Capture

CLASSES = 5


class Headed(nn.Module):
    """Two convolutions and a third with a channel for every class; ``pool`` makes logits of its output."""

    def __init__(self, last: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3), nn.ReLU(inplace=True))
        self.last = last
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.last(self.second(self.first(x).relu())))


def mean(x: Tensor) -> Tensor:
    return nn.functional.adaptive_avg_pool2d(x.relu_(), 1).flatten(1)


class Conditional(nn.Conv2d):
    """A convolution of which a parameter follows what the whole batch has in it."""

    def __init__(self, what: str) -> None:
        super().__init__(8, CLASSES, 1)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        factors = [x.mean() if each == self.what else 1 for each in ("weight", "bias")]
        assert self.bias is not None
        return nn.functional.conv2d(x, self.weight * factors[0], self.bias * factors[1])


SEPARABLE: dict[str, Callable[[], nn.Module]] = {
    "SqueezeNet's": lambda: Headed(nn.Conv2d(8, CLASSES, 1), mean),
    "padded and with steps": lambda: Headed(nn.Conv2d(8, CLASSES, 3, 2, 2, 2), lambda x: x.mean((-1, -2))),
    "max pooling": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1, bias=False), lambda x: nn.functional.adaptive_max_pool2d(x, 1).flatten(1)
    ),
    "pools of pools": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1),
        lambda x: nn.functional.avg_pool2d(nn.functional.leaky_relu(nn.functional.max_pool2d(x, 2)), 2).mean((2, 3)),
    ),
}
OTHERS: dict[str, Callable[[], nn.Module]] = {
    "channels compete": lambda: Headed(nn.Conv2d(8, CLASSES, 1), lambda x: x.softmax(1).mean((2, 3))),
    "channels are mixed": lambda: Headed(nn.Conv2d(8, CLASSES, 1), lambda x: (x + x.roll(1, 1)).mean((2, 3))),
    "rows stand for classes": lambda: Headed(nn.Conv2d(8, 7, 1, padding=(0, 0)), lambda x: x.mean((1, 3))[:, :CLASSES]),
    "cells stand for classes": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1), lambda x: x[:, :, :CLASSES, :CLASSES].mean((1, 3))
    ),
    "numbers in another order": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1), lambda x: x.reshape(len(x), -1, CLASSES).mean(1)
    ),
    "groups": lambda: Headed(nn.Conv2d(8, 8, 1, groups=4), mean),
    "what is pooled are classes": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1),
        lambda x: nn.functional.avg_pool2d(x.mean((2, 3))[:, None, :, None], (3, 1), 1, (1, 0)).flatten(1),
    ),
    "one row whose classes are pooled": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1),
        lambda x: nn.functional.avg_pool2d(x.mean((2, 3)).view(1, 1, -1, CLASSES), (1, 3), 1, (0, 1)).view(-1, CLASSES),
    ),
    "weights made of the picture": lambda: Headed(Conditional("weight"), mean),
    "a bias made of the picture": lambda: Headed(Conditional("bias"), mean),
    "a linear head": lambda: Headed(
        nn.Conv2d(8, CLASSES, 1), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CLASSES, CLASSES))
    ),
}
LAYERS = (LayerCall("first"), LayerCall("second"))


def _captured(build: Callable[[], nn.Module], layers: tuple[LayerCall, ...] = LAYERS, last: bool = False) -> Capture:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = frozen(build())
    if last:
        images = images.to(memory_format=torch.channels_last)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return EagerNetwork(model).capture(images, layers)


def _weights(classes: int) -> list[Tensor]:
    """Of the logits of three rows: one class each, one rather than another, a row without a target, and no target."""
    one = torch.eye(classes)[[0, 1, 1]]
    against = one - torch.eye(classes)[[2, 2, 3]]
    fewer = torch.cat([one[:2], torch.zeros(1, classes)])
    return [one, against, fewer, torch.zeros(3, classes)]


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("build", SEPARABLE.values(), ids=SEPARABLE)
def test_gradients_found_together_are_those_of_each(build: Callable[[], nn.Module], last: bool) -> None:
    captured = _captured(build, last=last)
    assert isinstance(captured.head, SeparableHead)
    for weights in _weights(CLASSES):
        found = gradients(captured, weights)
        expected = differentiate(captured.logits, list(captured.activations.values()), weights)
        for gradient, wanted in zip(found.values(), expected, strict=True):
            assert wanted is not None
            torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_other_heads_are_differentiated_target_by_target(build: Callable[[], nn.Module]) -> None:
    captured = _captured(build)
    assert not isinstance(captured.head, SeparableHead)
    weights = torch.eye(captured.logits.shape[1])[[0, 1, 1]]
    (wanted, _) = differentiate(captured.logits, list(captured.activations.values()), weights)
    assert wanted is not None
    torch.testing.assert_close(gradients(captured, weights)[LAYERS[0]], wanted)


def test_a_layer_within_the_head_is_differentiated_as_well() -> None:
    layers = (LayerCall("second"), LayerCall("last"))
    captured = _captured(SEPARABLE["SqueezeNet's"], layers)
    assert not isinstance(captured.head, SeparableHead)
    assert gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])[layers[1]].any()


def test_one_backward_pass_serves_all_targets() -> None:
    captured = _captured(SEPARABLE["SqueezeNet's"])
    first = captured.head
    assert isinstance(first, SeparableHead)
    gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])
    assert captured.head is first


def test_what_cannot_be_differentiated_is_refused_in_words() -> None:
    def changed(x: Tensor) -> Tensor:
        found: Tensor = last(x)
        x.mul_(2)
        return found

    last = nn.Conv2d(8, CLASSES, 1)
    model = Headed(nn.Identity(), lambda x: mean(changed(x)))
    model.add_module("conv", last)
    captured = _captured(lambda: model)
    with pytest.raises(MethodNotApplicable, match="changes in place"):
        gradients(captured, torch.eye(CLASSES)[[0, 1, 2]])
