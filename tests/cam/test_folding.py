"""A network with its normalisations in its convolutions: the same function, and the network's own where it is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.cam.capture import gradients
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.folding import FoldedNetwork, folded
from service.cam.layers import LayerCall
from service.cam.targets import Targets
from tests.cam.models import images, layers_of, nested

IMAGES = images(3)


def normalisation(channels: int) -> nn.BatchNorm2d:
    """Make one that has something to do."""
    made = nn.BatchNorm2d(channels)
    for tensor, low in ((made.running_mean, -1), (made.running_var, 0.5), (made.weight, 0.5), (made.bias, -1)):
        assert tensor is not None
        tensor.data.uniform_(low, 1.5, generator=torch.Generator().manual_seed(1))
    return made


class Net(nn.Module):
    """Convolution, normalisation, ReLU, pooling, as most networks begin and end."""

    def __init__(self, **convolution: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, **convolution)
        self.bn = normalisation(6)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def pooled(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(features).mean((2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.bn(self.conv(x)))


def frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(requires_grad=False)


def quick(module: nn.Module) -> FoldedNetwork:
    found = folded(frozen(module), IMAGES)
    assert found is not None
    return found


def test_numbers_worked_out_by_hand() -> None:
    net = Net(padding=0)
    net.conv = nn.Conv2d(1, 1, 1)
    net.bn = nn.BatchNorm2d(1, eps=0.0)
    net.head = nn.Linear(1, 1)
    values = {"conv.weight": 2.0, "conv.bias": 1.0, "bn.weight": 3.0, "bn.bias": -4.0, "head.weight": 1.0}
    for name, value in {**values, "head.bias": 0.0}.items():
        net.get_parameter(name).data.fill_(value)
    assert net.bn.running_mean is not None
    assert net.bn.running_var is not None
    net.bn.running_mean.fill_(5.0)
    net.bn.running_var.fill_(4.0)
    found = folded(frozen(net), torch.tensor([1.0, 7.0]).reshape(2, 1, 1, 1))
    assert found is not None
    # 3 · (2x + 1 - 5) / 2 - 4 = 3x - 10
    convolution = found._quick._module.get_submodule("conv")
    assert [float(each) for each in convolution.parameters()] == pytest.approx([3.0, -10.0])
    assert found.predict(torch.full((1, 1, 1, 1), 7.0)).tolist() == [[11.0]]


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"stride": 2}, {"padding": 1, "padding_mode": "reflect"}, {"groups": 3}]
)
def test_logits_and_maps_are_the_networks_own(options: dict[str, Any]) -> None:
    net = Net(**options)
    own = EagerNetwork(frozen(net))
    found = quick(net)
    torch.testing.assert_close(found.predict(IMAGES), own.predict(IMAGES))
    asked = [Targets((1,))] * 3, layers_of(net, "conv", "bn", "relu"), ["gradcam"]
    for mine, copied in zip(explain(own, IMAGES, *asked), explain(found, IMAGES, *asked), strict=True):
        for one, other in zip(nested(mine), nested(copied), strict=True):
            torch.testing.assert_close(other, one)


def test_the_output_of_a_folded_convolution_is_what_it_is_in_the_network() -> None:
    net = Net()
    found = quick(net)
    assert found._changed == {"conv"}
    captured = found.capture(IMAGES, [LayerCall("conv")])
    torch.testing.assert_close(captured.activations[LayerCall("conv")], net.conv(IMAGES))


def test_gradients_reach_the_layers_in_front_of_it() -> None:
    class Deep(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.stem(x))

    net = Deep()
    weights = torch.eye(4)[[0, 1, 2]]
    one, other = (each.capture(IMAGES, [LayerCall("stem")]) for each in (EagerNetwork(frozen(net)), quick(net)))
    for mine, copied in zip(gradients(one, weights).values(), gradients(other, weights).values(), strict=True):
        torch.testing.assert_close(copied, mine)


def test_weights_that_are_not_folded_are_shared_and_the_network_stays_as_it_is() -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    copied = quick(net)._quick._module
    assert copied.get_parameter("head.weight") is net.head.weight
    assert copied.get_parameter("conv.weight") is not net.conv.weight
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.conv._forward_hooks


def test_what_its_weights_take_is_known() -> None:
    assert quick(Net(bias=False)).more_bytes == 4 * (6 * 3 * 3 * 3 + 6)


class Skip(Net):
    """Uses the convolution's output beside the normalisation."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return self.pooled(self.bn(features) + features)


class Twice(Net):
    """Normalises two different outputs alike."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.bn(self.conv(x)) + self.bn(self.other(x)))


class Between(Net):
    """Has something between the two that no module does."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.bn(self.conv(x).sin()))


class Detached(Net):
    """Uses the convolution's output where no graph shows it."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        logits: Tensor = self.pooled(self.bn(features)) * features.detach().mean()
        return logits


class ByItself(Net):
    """Calls its first copy's convolution, which a copy of the module goes on calling."""

    def __init__(self) -> None:
        super().__init__()
        own = self.conv

        def first(x: Tensor) -> Tensor:
            found: Tensor = own(x)
            return found

        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(self.bn(self.first(x)))


class Asks(Net):
    """Asks its normalisation for what an identity does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.bn.eps


class Heads(Net):
    """Has two outputs."""

    def forward(self, x: Tensor) -> Any:
        return {"one": super().forward(x), "other": super().forward(x)}


@pytest.mark.parametrize("kind", [Skip, Twice, Between, Detached, ByItself, Asks, Heads])
def test_what_would_not_be_the_same_is_left_alone(kind: type[nn.Module]) -> None:
    assert folded(frozen(kind()), IMAGES) is None


def test_a_convolution_that_somebody_listens_to_is_left_alone() -> None:
    net = Net()
    net.conv.register_forward_hook(lambda _module, _inputs, output: output * 2)
    assert folded(frozen(net), IMAGES) is None


def test_a_normalisation_by_the_batch_itself_is_left_alone() -> None:
    net = Net()
    net.bn = nn.BatchNorm2d(6, track_running_stats=False)
    assert folded(frozen(net), IMAGES) is None


def test_a_container_that_gives_out_what_the_convolution_does_is_left_alone() -> None:
    class Contained(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(self.conv)

        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.bn(self.stem(x)))

    assert folded(frozen(Contained()), IMAGES) is None
