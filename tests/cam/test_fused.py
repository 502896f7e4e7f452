"""Convolutions that compute what comes next: the numbers are those of the modules one after the other."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from service.cam import packed
from service.cam.capture import TOLERANCE, gradients, logits_apart
from service.cam.eager import EagerNetwork
from service.cam.folding import NotFolded, folded
from service.cam.layers import LayerCall
from service.cam.packed import PackedConvolution
from service.errors import MethodNotApplicable
from tests.cam.models import images
from tests.cam.test_folding import Net, frozen, normalisation, quick, why_not

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.folded_convolution import FoldedConvolution
    from service.cam.folding import FoldedNetwork
    from service.cam.network import Network

IMAGES = images(3)
BRIGHT = IMAGES + 3


def packs(dtype: torch.dtype) -> bool:
    """Whether this processor has convolutions of that precision that compute what comes next; all have float32's."""
    return PackedConvolution.can_pack(nn.Conv2d(1, 1, 1, dtype=dtype))


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
    assert any(fold.waits for fold in found._folds) == (groups == 1 and packs(dtype))
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
    net = Net()
    found = quick(net)
    assert only(found).waits is False
    assert_computes_the_same(net, found)
    assert folded(frozen(Activated(nn.ReLU(), padding_mode="reflect", padding=1)), IMAGES).more_bytes
    net.bn = nn.Identity()  # type: ignore[assignment]
    assert why_not(frozen(net)) == "Folded, it raises an error or does not compute the same."


def test_without_the_operators_normalisations_are_folded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_CONVOLVE", None)
    net = Blocks()
    found = quick(net)
    assert [fold.waits for fold in found._folds] == [False, False]
    assert_computes_the_same(net, found)
    assert folded(frozen(Activated(nn.ReLU()).eval()), IMAGES).more_bytes
    bare = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert why_not(bare) == "It has no plain convolution that would be computed sooner."


@pytest.mark.parametrize("name", [name for name in ACTIVATIONS if name != "Hardtanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_stays_none(name: str, dtype: torch.dtype) -> None:
    """A flat picture that the network divides by what it varies by: its logits must not look like an answer."""

    class Standardises(Added):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward((x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True))

    net = Standardises().to(dtype)
    net.relu = ACTIVATIONS[name] if isinstance(ACTIVATIONS[name], nn.Module) else nn.ReLU()  # type: ignore[assignment]
    found = quick(net)
    assert any(fold.waits for fold in found._folds) == packs(dtype)
    pictures = torch.cat([IMAGES[:1], torch.zeros_like(IMAGES[:1]), IMAGES[1:]]).to(dtype)
    logits = found.predict(pictures)
    assert torch.equal(logits.isnan(), EagerNetwork(net).predict(pictures).isnan())
    assert logits[1].isnan().all()
    assert found.more_bytes, "the next picture is computed by folded convolutions again"
    torch.testing.assert_close(
        found.predict(pictures[:1]), EagerNetwork(net).predict(pictures[:1]), atol=5e-2, rtol=5e-2
    )


class Reentrant(Blocks):
    """Checkpoints without a graph, and says so itself where a gradient is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return Net.forward(self, functional.relu(checkpoint(self.first[1:], self.first[0](x), use_reentrant=True)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # while nobody asks for gradients
def test_a_reentrant_checkpoint_is_refused_as_before() -> None:
    net, layer = Reentrant(), LayerCall("first.0")
    net.first = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), normalisation(3))
    captured = quick(net).capture(IMAGES, [layer])
    with pytest.raises(MethodNotApplicable, match="use_reentrant"):
        gradients(captured, torch.eye(4)[[0, 1, 2]])


def _written(x: Tensor) -> Tensor:
    x[..., 0] = 0
    return x


LOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "where it is not zero": lambda x: torch.sigmoid(x) * (x != 0),
    "where it is": lambda x: torch.where(x == 0, 1.0, x),
    "at its sign": lambda x: x * (x > 0) + (x <= 0) * 2,
    "at its length": lambda x: x * len(x),
    "divides by it": lambda x: 1 / (x.abs() + 1) + x // 1,
    "writes into it": _written,
}


@pytest.mark.parametrize("name", LOOKS)
def test_who_looks_gets_numbers_and_other_convolutions_wait(name: str) -> None:
    class Looks(Blocks):
        def pooled(self, features: Tensor) -> Tensor:
            return super().pooled(LOOKS[name](features))

    net = Looks()
    found = quick(net)
    assert {fold.convolution: fold.waits for fold in found._folds} == {net.conv: False, net.first[0]: True}
    assert_computes_the_same(net, found)
    assert_computes_the_same(net, found, IMAGES * 0)


class GuardsIt(Surprising):
    def surprise(self, features: Tensor, x: Tensor) -> Tensor:
        once = functional.relu(features)
        with contextlib.suppress(Exception):  # what is raised to us is none of theirs
            once = once + features * len(x)
        return self.pooled(once)


def test_what_the_network_does_about_exceptions_is_not_done_about_ours() -> None:
    net = GuardsIt()
    torch.testing.assert_close(quick(net).predict(BRIGHT), EagerNetwork(frozen(net)).predict(BRIGHT))


class KeepsIt(Net):
    """Keeps an output from one pass to the next."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None and self.kept.shape[2:] != x.shape[2:]:
            self.kept = None
        self.kept = self.bn(self.conv(x))
        return self.pooled(self.kept)


def test_an_output_that_is_kept_does_not_wait() -> None:
    net = KeepsIt()
    found = quick(net)
    assert not only(found).waits
    assert_computes_the_same(net, found)
    assert isinstance(net.kept, Tensor)


class KeepsItSometimes(Surprising):
    kept: Any = None

    def surprise(self, features: Tensor, _: Tensor) -> Tensor:
        self.kept = features
        return self.pooled(features)


def test_what_outlives_its_pass_is_a_number_still() -> None:
    net = KeepsItSometimes()
    found = quick(net)
    found.predict(BRIGHT)
    torch.testing.assert_close(net.kept * 1, net.bn(net.conv(BRIGHT)))
    assert copy.copy(net.kept) is not None


def test_other_weights_are_noticed() -> None:
    net = Net()
    found = quick(net)
    net.conv.load_state_dict({name: value * 2 for name, value in net.conv.state_dict().items()})
    torch.testing.assert_close(found.predict(IMAGES), EagerNetwork(net).predict(IMAGES))


class Viewed(Net):
    """As LeNet: it reads pixels in the order in which they do not lie once convolutions give out channels last."""

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(self.relu(self.bn(self.conv(x))), 2)
        logits: Tensor = self.head(pooled.view(pooled.size(0), 6, 4).mean(2))
        return logits


@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_that_views_its_features_is_folded_without_packing(channels: int) -> None:
    net = Viewed()
    net.conv = nn.Conv2d(channels, 6, 3)
    pictures = IMAGES[:, :channels].contiguous()
    found = folded(frozen(net), pictures)
    torch.testing.assert_close(found.predict(pictures + 3), EagerNetwork(net).predict(pictures + 3))
    assert found.more_bytes


class Odd(Blocks):
    """One convolution gets what packed ones do not take."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.pattern = nn.Parameter(torch.ones(1, 3, 4, 4))
        self.aside = nn.Conv2d(3, 6, 1)

    def pooled(self, features: Tensor) -> Tensor:
        if self.how == "a parameter":
            beside = self.aside(self.pattern)
        elif self.how == "one picture":
            beside = self.aside(torch.ones(3, 4, 4))[None]
        else:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                beside = self.aside(torch.ones(1, 3, 4, 4)).float()
        return super().pooled(features + beside.mean())


@pytest.mark.parametrize("how", ["a parameter", "one picture", "under autocast"])
def test_one_convolution_that_cannot_be_packed_leaves_others_folded(how: str) -> None:
    net = Odd(how)
    found = quick(net)
    assert any(fold.waits for fold in found._folds)
    assert_computes_the_same(net, found)


def test_under_autocast_nothing_is_packed() -> None:
    class Casts(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(x).float()

    net = frozen(Casts())
    found: Network = EagerNetwork(net)
    with contextlib.suppress(NotFolded):  # some processors round otherwise
        found = folded(net, IMAGES)
    torch.testing.assert_close(found.predict(IMAGES), EagerNetwork(net).predict(IMAGES), atol=2e-2, rtol=2e-2)
