"""A network of one output is, to every method, the same network with two: the output and its negation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.binary import BinaryNetwork
from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets, Top
from tests.cam.models import FAMILIES, allowed, images, layers_of, prepared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.network import Network
    from service.cam.targets import CamOptions as Options


def with_head(family: str, rows: Sequence[float]) -> nn.Module:
    """A family's network whose classes are multiples of its first one."""
    model = copy.deepcopy(prepared(family)[0])
    name, head = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Linear)][-1]
    assert head.out_features == 5
    other, scale = nn.Linear(head.in_features, len(rows)), torch.tensor(rows)
    other.weight = nn.Parameter(scale[:, None] * head.weight[:1], requires_grad=False)
    other.bias = nn.Parameter(scale * head.bias[:1], requires_grad=False)
    model.set_submodule(name, other)
    return model


def pair(family: str) -> tuple[Network, Network]:
    """One output z seen as two, and two outputs -z and z."""
    return BinaryNetwork(EagerNetwork(with_head(family, [1.0]))), EagerNetwork(with_head(family, [-1.0, 1.0]))


def assert_the_same(family: str, method: str, targets: Sequence[Targets], options: Options) -> None:
    layers = layers_of(with_head(family, [1.0]), FAMILIES[family][1][-1])
    found, expected = (explain(each, images(2), targets, layers, [method], options) for each in pair(family))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        for raw, wanted in zip(one.maps, other.maps, strict=True):
            assert (raw.layer, raw.target, raw.zero_gradient) == (wanted.layer, wanted.target, wanted.zero_gradient)
            rounding = 1e-5 * float(wanted.values.abs().max())
            torch.testing.assert_close(raw.values, wanted.values, rtol=1e-4, atol=max(rounding, 1e-5))
    assert any(raw.values.any() for one in found for raw in one.maps)


@pytest.mark.parametrize(("family", "method"), allowed())
def test_every_method_sees_two_classes(family: str, method: str) -> None:
    options = CamOptions(signed=METHODS[method].signed)
    assert_the_same(family, method, [Targets((0, 1)), Targets((Top(2),))], options)


@pytest.mark.parametrize(
    ("family", "method"),
    [(f, m) for f, m in allowed() if METHODS[m].class_specific and METHODS[m].score == "logit"],
)
def test_one_class_rather_than_the_other(family: str, method: str) -> None:
    options = CamOptions(signed=METHODS[method].signed, flip=True)
    assert_the_same(family, method, [Targets((1,), against=0), Targets((0,), against=1)], options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_catalogue_is_the_same(family: str) -> None:
    one, two = (probe_layers(network, images(2)) for network in pair(family))
    differing = [(a.name, a.shape, b.shape) for a, b in zip(one, two, strict=True) if a != b]
    assert [shapes for _, *shapes in differing if shapes != [(1,), (2,)]] == []  # the head itself


class Mean(nn.Module):
    """The output is the mean of the picture's first channel."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = nn.AvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.pixels(x).mean((2, 3))
        return means[:, :1]


def test_by_hand() -> None:
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, 0] = torch.tensor([[4.0, 0.0], [0.0, -8.0]])
    network = BinaryNetwork(EagerNetwork(Mean()))
    options = CamOptions(signed=True)
    (answer,) = explain(network, picture, [Targets((0, 1))], layers_of(Mean(), "pixels"), ["hirescam"], options)
    assert answer.logits.tolist() == [1.0, -1.0]  # z = (4 - 8) / 4 = -1: the class 0 is predicted
    # The gradient of z is 1/4 everywhere; for the class 0 its sign is turned.
    assert answer.maps[1].values.tolist() == [[1.0, 0.0], [0.0, -2.0]]
    assert answer.maps[0].values.tolist() == [[-1.0, 0.0], [0.0, 2.0]]


def test_of_a_probability_the_rest_is_what_is_missing_to_one() -> None:
    class Probability(Mean):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).sigmoid()

    network = BinaryNetwork(EagerNetwork(Probability()), of_probability=True)
    picture = torch.zeros(1, 3, 2, 2)
    picture[0, 0] = 1.0
    torch.testing.assert_close(predict(network, picture), torch.tensor([[0.2689414, 0.7310586]]))


@pytest.mark.parametrize(
    ("shape", "n", "expected"),
    [((4,), 4, (4, 1)), ((), 1, (1, 1)), ((1,), 1, (1, 1)), ((5,), 1, (1, 5)), ((4, 1), 4, (4, 1))],
    ids=str,
)
def test_an_axis_that_was_squeezed_away_comes_back(shape: tuple[int, ...], n: int, expected: tuple[int, int]) -> None:
    class Squeezes(nn.Module):
        def forward(self, _: Tensor) -> Tensor:
            return torch.zeros(shape)

    assert predict(EagerNetwork(Squeezes()), images(n)).shape == expected
