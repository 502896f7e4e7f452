"""Convolutions that compute what comes next: the numbers are those of the modules one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from service.cam import packed
from service.cam.capture import TOLERANCE, gradients, logits_apart
from service.cam.eager import EagerNetwork
from service.cam.folding import folded
from service.cam.layers import LayerCall
from service.cam.packed import PackedConvolution
from tests.cam.models import images
from tests.cam.test_folding import Net, frozen, normalisation, quick

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.folded_convolution import FoldedConvolution
    from service.cam.folding import FoldedNetwork

IMAGES = images(3)
BRIGHT = IMAGES + 3


def only(network: FoldedNetwork) -> FoldedConvolution:
    (fold,) = network._folds
    return fold


def assert_computes_the_same(module: nn.Module, network: FoldedNetwork, pictures: Tensor = BRIGHT) -> None:
    torch.testing.assert_close(network.predict(pictures), EagerNetwork(frozen(module)).predict(pictures))
    assert network.more_bytes, "it is folded still"


# -- an activation ----------------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "ReLU": nn.ReLU(),
    "ReLU in place": nn.ReLU(inplace=True),
    "relu": functional.relu,
    "torch.relu": torch.relu,
    "ReLU6": nn.ReLU6(),
    "relu6": functional.relu6,
    "Hardtanh": nn.Hardtanh(-0.5, 0.25),
    "LeakyReLU": nn.LeakyReLU(0.3),
    "SiLU": nn.SiLU(inplace=True),
    "Hardswish": nn.Hardswish(),
    "Hardsigmoid": nn.Hardsigmoid(),
    "Sigmoid": nn.Sigmoid(),
    "GELU": nn.GELU(),
    "GELU by tanh": nn.GELU("tanh"),
}


class Activated(Net):
    def __init__(self, activation: Callable[[Tensor], Tensor], **options: Any) -> None:
        super().__init__(**options)
        self.activation = activation

    def pooled(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.activation(features).mean((2, 3)))
        return logits


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("normalised", [True, False])
def test_an_activation_is_computed_with_its_convolution(name: str, normalised: bool) -> None:
    net = Activated(ACTIVATIONS[name])
    if not normalised:
        net.bn = nn.Identity()  # type: ignore[assignment]
    found = quick(net)
    assert only(found).waits
    assert_computes_the_same(net, found)


@pytest.mark.parametrize("activation", [nn.ELU(), nn.Mish(), nn.ReLU6().train(), functional.softplus])
def test_others_come_after_it(activation: Callable[[Tensor], Tensor]) -> None:
    net = Activated(activation)
    assert_computes_the_same(net, quick(net))


# -- an addition ------------------------------------------------------------------------------------------------------


class Added(Net):
    """A block with a convolution beside it, as the first ones of ResNets are."""

    def __init__(self, add: Callable[[Tensor, Tensor], Tensor] = torch.add, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 6, **{"kernel_size": 3, **options})
        self.beside = nn.Conv2d(3, 6, **{"kernel_size": 3, **options})
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        features = self.bn(self.conv(x))
        return self.pooled(self.add(features, self.beside(x)))


def _in_place(one: Tensor, other: Tensor) -> Tensor:
    one += other
    return one


ADDITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plus": lambda one, other: one + other,
    "the other way round": lambda one, other: other + one,
    "torch.add": torch.add,
    "in place": _in_place,
    "into what is no output of a convolution": lambda one, other: _in_place(other * 1, one),
    "to what is no output of a convolution": lambda one, other: other * 1 + one,
    "with a factor": lambda one, other: torch.add(one, other, alpha=2),
    "broadcast": lambda one, other: one + other.mean((2, 3), keepdim=True),
    "a number": lambda one, other: one + 1 - 2 * other,
}
FUSED = ("plus", "the other way round", "torch.add", "in place", "to what is no output of a convolution")


@pytest.mark.parametrize("name", ADDITIONS)
def test_an_addition_and_its_relu_are_computed_with_a_convolution(name: str) -> None:
    net = Added(ADDITIONS[name])
    found = quick(net)
    assert any(fold.sum_waits for fold in found._folds) == (name in FUSED)
    assert_computes_the_same(net, found)


def test_a_sum_that_is_used_twice_does_not_wait() -> None:
    class Twice(Added):
        def pooled(self, features: Tensor) -> Tensor:
            return super().pooled(features + features.mean() * self.relu(features))

    net = Twice()
    found = quick(net)
    assert [(fold.waits, fold.sum_waits) for fold in found._folds] == [(True, False), (False, False)]
    assert_computes_the_same(net, found)


def test_another_activation_comes_after_the_sum() -> None:
    net = Added()
    net.relu = nn.SiLU()  # type: ignore[assignment]
    found = quick(net)
    assert not any(fold.sum_waits for fold in found._folds)
    assert_computes_the_same(net, found)


@given(
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 3]),
    sizes=st.tuples(st.integers(1, 4), st.integers(7, 12), st.integers(7, 12)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_of_whatever_shape(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, sizes: tuple[int, int, int], dtype: torch.dtype
) -> None:
    net = Added(kernel_size=kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
    frozen(net).to(dtype)
    rows, height, width = sizes
    pictures = torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = folded(net, torch.ones(1, 3, 9, 9).to(dtype))  # of another size than what comes
    assert found is not None
    assert any(fold.waits for fold in found._folds) == (groups == 1)
    with torch.no_grad():
        expected = net(pictures)
    assert logits_apart(found.predict(pictures), expected) <= (TOLERANCE[dtype] or 1e-5)
    assert found.more_bytes


# -- what the pictures at load do not show ----------------------------------------------------------------------------


class Surprising(Net):
    """Does something else with bright pictures, which those at load are not."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.bn(self.conv(x))
        return self.surprise(features, x) if x.mean() > 1 else self.pooled(features)

    def surprise(self, features: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class UsesItTwice(Surprising):
    def surprise(self, features: Tensor, _: Tensor) -> Tensor:
        return self.pooled(features) + self.pooled(features)


class WritesIntoWhatItReads(Surprising):
    def surprise(self, features: Tensor, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.pooled(features)


class AddsWhatItWritesInto(Surprising):
    def surprise(self, features: Tensor, x: Tensor) -> Tensor:
        beside = torch.ones(len(x), 6, x.shape[2] - 2, x.shape[3] - 2)
        total = features + beside
        beside.mul_(2)
        return self.pooled(total)


class ChangesItInPlaceUnderTwoNames(Surprising):
    def surprise(self, features: Tensor, _: Tensor) -> Tensor:
        total = features
        total += 1
        return self.pooled(total) + self.pooled(features)


class ReadsNumbers(Surprising):
    def surprise(self, features: Tensor, _: Tensor) -> Tensor:
        return self.pooled(torch.from_numpy(features.numpy() * 2))


class AsksForItsKind(Surprising):
    def surprise(self, features: Tensor, _: Tensor) -> Tensor:
        return self.pooled(features.view_as(features))


@pytest.mark.parametrize("kind", Surprising.__subclasses__())
def test_what_cannot_wait_for_a_surprise_is_computed_as_the_network_does(kind: type[Surprising]) -> None:
    net = kind()
    own, found = EagerNetwork(frozen(net)), quick(net)
    assert only(found).waits
    torch.testing.assert_close(found.predict(BRIGHT), own.predict(BRIGHT))


class UsesItOtherwise(Surprising):
    def surprise(self, features: Tensor, x: Tensor) -> Tensor:
        return self.pooled(torch.cat([features[:, :2] * 2, torch.ones(len(x), 4, x.shape[2] - 2, x.shape[3] - 2)], 1))


def test_a_single_other_use_changes_nothing() -> None:
    net = UsesItOtherwise()
    assert_computes_the_same(net, quick(net))


# -- layers that give out something else ------------------------------------------------------------------------------


class Blocks(Net):
    """Two blocks; the first ends with a normalisation, in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 3, 1), normalisation(3))
        self.between = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.between(self.first(x)))


@pytest.mark.parametrize("name", ["first.0", "first.1", "first", "between", "conv", "bn", "relu"])
def test_a_layer_is_what_it_is_in_the_network_and_other_convolutions_stay_folded(name: str) -> None:
    net, layer = Blocks(), LayerCall(name)
    found = quick(net)
    assert [fold.waits for fold in found._folds] == [True, True]
    one, other = (each.capture(IMAGES, [layer]) for each in (EagerNetwork(net), found))
    torch.testing.assert_close(other.activations, one.activations)
    weights = torch.eye(4)[[0, 1, 2]]
    torch.testing.assert_close(gradients(other, weights), gradients(one, weights))
    assert_computes_the_same(net, found)


def test_whoever_listens_to_such_a_layer_gets_a_tensor() -> None:
    heard = []
    net = Blocks()
    net.first.register_forward_hook(lambda _module, _inputs, output: heard.append(type(output)))
    found = quick(net)
    assert {fold.convolution: fold.waits for fold in found._folds} == {net.conv: True, net.first[0]: False}
    heard.clear()
    assert_computes_the_same(net, found)
    assert set(heard) == {Tensor}


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 3, "dilation": 2}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_go_through_the_weights_of_the_network(options: dict[str, Any], dtype: torch.dtype) -> None:
    class Deep(Net):
        def __init__(self) -> None:
            super().__init__(**options)
            self.stem = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.stem(x))

    net, weights = Deep().to(dtype), torch.eye(4)[[0, 1, 2]].to(dtype)
    pictures, layer = IMAGES.to(dtype), LayerCall("stem")
    networks = EagerNetwork(frozen(net)), quick(net)
    one, other = (gradients(each.capture(pictures, [layer]), weights)[layer] for each in networks)
    alike = torch.cosine_similarity(one.float().flatten(1), other.float().flatten(1))
    assert alike.min() > (0.999 if dtype == torch.float32 else 0.97), "rounding switches some cells of a ReLU"


def test_gradients_can_be_differentiated_again() -> None:
    class Deep(Activated):
        def __init__(self) -> None:
            super().__init__(torch.sigmoid)
            self.stem = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.stem(x))

    net = Deep()
    layer = LayerCall("stem")
    seconds: list[Tensor] = []
    for network in EagerNetwork(frozen(net)), quick(net):
        captured = network.capture(IMAGES, [layer], derivatives=2)
        activations = captured.activations[layer]
        (first,) = torch.autograd.grad(captured.logits[:, 1].sum(), activations, create_graph=True)
        seconds += torch.autograd.grad(first.square().sum(), activations)
    assert seconds[0].abs().max() > 0
    torch.testing.assert_close(*seconds)


# -- where it cannot be trusted, or had ------------------------------------------------------------------------------


def poisoned(self: PackedConvolution, *args: Any) -> Tensor:
    return convolve(self, *args) * 1.01


convolve = PackedConvolution.convolve


def test_wrong_numbers_are_refused_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackedConvolution, "convolve", poisoned)
    assert folded(frozen(Net()), IMAGES) is None


def test_without_the_operators_normalisations_are_folded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_CONVOLVE", None)
    net = Blocks()
    found = quick(net)
    assert [fold.waits for fold in found._folds] == [False, False]
    assert_computes_the_same(net, found)
    assert folded(frozen(Activated(nn.ReLU()).eval()), IMAGES) is not None
    assert folded(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(), IMAGES) is None


def test_under_autocast_the_network_computes_by_itself() -> None:
    class Casts(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    assert folded(frozen(Casts()), IMAGES) is None
