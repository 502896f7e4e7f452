"""Gradients of convolutions by weights that are laid out once: those of PyTorch's operators, or they are not used."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from service.cam import packed_gradient
from service.cam.capture import gradients
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.layers import LayerCall
from service.cam.packed import PackedConvolution
from service.cam.packed_gradient import PackedGradient
from service.cam.separable_head import SeparableHead
from service.cam.targets import Targets
from service.errors import MethodNotApplicable
from tests.cam.models import images, layers_of
from tests.cam.test_folding import frozen, normalisation, quick

if TYPE_CHECKING:
    from collections.abc import Callable

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
pytestmark = pytest.mark.skipif(
    not PackedConvolution.can_pack(nn.Conv2d(1, 1, 1)), reason="this build of PyTorch has no such operators"
)


def at_input(convolution: nn.Conv2d, gradient: PackedGradient, given: Tensor, shape: torch.Size) -> Tensor:
    return gradient.at_input(given, shape, convolution.weight.detach)


def by_pytorch(convolution: nn.Conv2d, given: Tensor, shape: torch.Size) -> Tensor:
    own = convolution
    found: Tensor = conv2d_input(shape, own.weight, given, own.stride, own.padding, own.dilation, own.groups)  # type: ignore[no-untyped-call]
    return found.detach()


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype
    assert (found - wanted).abs().max() <= CLOSE[wanted.dtype] * wanted.abs().max()


def test_numbers_worked_out_by_hand() -> None:
    convolution = nn.Conv2d(1, 1, (1, 2), stride=(1, 2), bias=False)
    convolution.weight.data = torch.tensor([[[[3.0, 5.0]]]])
    found = at_input(
        convolution, PackedGradient(convolution), torch.tensor([[[[1.0, 10.0]]]]), torch.Size((1, 1, 1, 5))
    )
    assert found.flatten().tolist() == [3, 5, 30, 50, 0], "the last column is read by no output"


@given(data=st.data())
def test_every_geometry_has_the_gradient_of_pytorchs_operators(data: st.DataObject) -> None:
    def draw(low: int, high: int, what: str) -> int:
        return data.draw(st.integers(low, high), what)

    groups = draw(1, 3, "groups")
    kernel = draw(1, 4, "height of the kernel"), draw(1, 4, "width of the kernel")
    convolution = nn.Conv2d(
        groups * draw(1, 3, "channels of a group"),
        groups * draw(1, 3, "outputs of a group"),
        kernel,
        stride=(draw(1, 3, "rows of a step"), draw(1, 3, "columns of a step")),
        padding=(draw(0, 4, "rows of padding"), draw(0, 4, "columns of padding")),
        dilation=draw(1, 2, "dilation"),
        groups=groups,
    )
    gradient = PackedGradient(convolution)
    sides = draw(8, 12, "height"), draw(8, 12, "width")
    for pictures in (1, 3):
        shape = torch.Size((pictures, convolution.in_channels, *sides))
        like = convolution(torch.zeros(shape))
        given = torch.randn(like.shape, generator=torch.Generator().manual_seed(1))
        assert_same(at_input(convolution, gradient, given, shape), by_pytorch(convolution, given, shape))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4])
def test_in_bfloat16_as_well(kernel: int, stride: int, groups: int) -> None:
    """Of geometries that networks have: PyTorch's own convolution crashes on others in bfloat16."""
    options: Any = {"stride": stride, "padding": kernel // 2, "groups": groups, "dtype": torch.bfloat16}
    convolution = nn.Conv2d(4, 8, kernel, **options)
    if not PackedConvolution.can_pack(convolution):
        pytest.skip("this processor has no bfloat16")
    shape = torch.Size((2, 4, 9, 9))
    given = torch.randn(convolution(torch.zeros(shape, dtype=torch.bfloat16)).shape).bfloat16()
    assert_same(at_input(convolution, PackedGradient(convolution), given, shape), by_pytorch(convolution, given, shape))


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda given: given.contiguous(memory_format=torch.channels_last),
        lambda given: given[:, :, :1, :1].expand(given.shape),  # as the gradient of a mean
        lambda given: given.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    ],
)
def test_however_a_gradient_lies_in_memory(laid_out: Callable[[Tensor], Tensor]) -> None:
    convolution = nn.Conv2d(4, 8, 3, padding=1)
    given, shape = laid_out(torch.randn(2, 8, 6, 6)), torch.Size((2, 4, 6, 6))
    assert_same(at_input(convolution, PackedGradient(convolution), given, shape), by_pytorch(convolution, given, shape))


class Deep(nn.Module):
    """Three convolutions, the second without a normalisation, with a skip connection around the last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), normalisation(6), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, stride=2), nn.ReLU(inplace=True))
        self.third = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, bias=False), normalisation(6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        within = self.second(self.first(x))
        logits: Tensor = self.head((within + self.third(within)).relu().mean((2, 3)))
        return logits


LAYERS = ("first.2", "second.1")
IMAGES = images(3)


def explained(network: Any, net: nn.Module, pictures: Tensor, method: str = "gradcam") -> list[Tensor]:
    found = explain(network, pictures, [Targets((1, 2))] * len(pictures), layers_of(net, *LAYERS), [method])
    return [raw.values for each in found for raw in each.maps]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    own: Any = PackedGradient._convolve

    def convolve(self: PackedGradient, *args: Any) -> Tensor:
        calls.append(1)
        found: Tensor = own(self, *args)
        return found

    monkeypatch.setattr(PackedGradient, "_convolve", convolve)
    return calls


@pytest.mark.parametrize("pictures", [IMAGES[:1], IMAGES])
def test_maps_are_those_of_the_modules_as_they_are(pictures: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Deep()
    found, own = quick(net), EagerNetwork(frozen(net))
    calls = counted(monkeypatch)
    torch.testing.assert_close(explained(found, net, pictures), explained(own, net, pictures))
    assert len(calls) == 2 * (1 + 2), (
        "two convolutions come after the first layer: each is tried, and used for two targets"
    )


def poisoned(gradients: Tensor, *args: Any) -> Tensor:
    computed: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(gradients, *args)
    return computed * 1.01


def failing(*_args: Any) -> Tensor:
    raise RuntimeError("could not create a primitive descriptor")


@pytest.mark.parametrize("operator", [poisoned, failing, None])
def test_operators_that_compute_something_else_are_not_used(
    operator: Callable[..., Tensor] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_gradient, "_CONVOLVE", operator)
    net = Deep()
    found, own = quick(net), EagerNetwork(frozen(net))
    for _ in range(2):
        torch.testing.assert_close(explained(found, net, IMAGES), explained(own, net, IMAGES))


def test_second_derivatives_are_those_of_the_modules_as_they_are() -> None:
    net = Deep()
    found, own = quick(net), EagerNetwork(frozen(net))
    explained(found, net, IMAGES)  # weights are laid out
    torch.testing.assert_close(explained(found, net, IMAGES, "shapleycam"), explained(own, net, IMAGES, "shapleycam"))


def test_copies_have_the_weights_in_common_and_threads_may_use_them_together() -> None:
    convolution = nn.Conv2d(4, 8, 3)
    gradient = PackedGradient(convolution)
    assert copy.deepcopy([gradient])[0] is gradient
    given, shape = torch.randn(2, 8, 6, 6), torch.Size((2, 4, 8, 8))
    found: list[Tensor] = []
    threads = [
        threading.Thread(target=lambda: found.append(at_input(convolution, gradient, given, shape))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for each in found:
        assert_same(each, by_pytorch(convolution, given, shape))
    assert len(gradient._laid_out) == 1


def test_a_head_of_a_channel_for_each_class_is_found_in_what_is_folded() -> None:
    """The last convolution's packed node takes the place of PyTorch's own."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    found, own = quick(net), EagerNetwork(frozen(net))
    for layer in (LayerCall("1"), LayerCall("0")):
        captured, wanted = found.capture(IMAGES, [layer]), own.capture(IMAGES, [layer])
        assert isinstance(captured.head, SeparableHead)
        weights = torch.eye(4)[[0, 2, 3]]
        torch.testing.assert_close(gradients(captured, weights)[layer], gradients(wanted, weights)[layer])


class ChangesItself(Deep):
    """Writes into the weights of a convolution that gradients go through, once it was computed."""

    changes = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        if self.changes:
            with torch.no_grad():
                self.get_parameter("second.0.weight").mul_(-2)
        return logits


def test_weights_of_another_time_than_the_forward_pass_are_refused() -> None:
    net = ChangesItself()
    found = quick(net)
    net.changes = True
    captured = found.capture(IMAGES, [LayerCall("first.2")])
    with pytest.raises(MethodNotApplicable, match="changes in place"):
        gradients(captured, torch.eye(4)[:3])


def test_layouts_for_pictures_of_many_sizes_are_bounded() -> None:
    convolution = nn.Conv2d(2, 3, 1, stride=3)
    gradient = PackedGradient(convolution)
    for rows in range(8, 12):
        for columns in range(8, 12):
            shape = torch.Size((1, 2, rows, columns))
            given = torch.randn(convolution(torch.zeros(shape)).shape)
            assert_same(at_input(convolution, gradient, given, shape), by_pytorch(convolution, given, shape))
    assert len(gradient._laid_out) == 4


def test_a_head_of_a_channel_for_each_class_does_not_go_on_with_other_weights() -> None:
    last = nn.Conv2d(6, 4, 1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    captured = quick(net).capture(IMAGES, [LayerCall("1")])
    with torch.no_grad():
        last.weight.mul_(-2)
    with pytest.raises(MethodNotApplicable, match="changes in place"):
        gradients(captured, torch.eye(4)[:3])
