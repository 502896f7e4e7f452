"""The network with a random head: other logits, the same layers, and nothing changed of what others share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from service.cam.binary import BinaryNetwork
from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.random_head import matrices_of, shuffled_copy
from service.cam.targets import Targets
from service.errors import ModelOutputError
from tests.cam.models import FAMILIES, Plain, frozen, images

if TYPE_CHECKING:
    from service.cam.layers import Layer


def seen(model: nn.Module) -> tuple[EagerNetwork, list[Layer]]:
    network = EagerNetwork(frozen(model))
    return network, probe_layers(network, images(2))


@pytest.mark.parametrize("family", FAMILIES)
def test_it_has_other_logits_and_the_network_keeps_its_own(family: str) -> None:
    build, _ = FAMILIES[family]
    network, layers = seen(build())
    inputs = images(3)
    before, weights = network.predict(inputs), [each.clone() for each in network._module.state_dict().values()]
    other = network.with_random_head(layers, 5, 2016)
    assert other is not None
    assert not torch.allclose(other.predict(inputs), before, rtol=0.01)
    assert torch.equal(network.predict(inputs), before)
    assert all(map(torch.equal, network._module.state_dict().values(), weights))
    assert not any(module._forward_hooks for module in network._module.modules())


def test_what_comes_before_the_head_is_the_same_and_gradients_come_from_the_other_head() -> None:
    """The mean over positions, times a row of the weights in another order: Grad-CAM's weights are that row."""
    network, layers = seen(Plain())
    other = network.with_random_head(layers, 5, 2016)
    assert other is not None
    head = network._module.get_submodule("head")
    row = matrices_of(shuffled_copy(head, ["weight"], 2016))["weight"][2]
    second = next(layer for layer in layers if layer.name == "second")
    inputs = images(1)
    (found,) = explain(other, inputs, [Targets((2,))], [second], ["gradcam"])
    activations = other.capture(inputs, [second.call]).activations[second.call].detach()
    assert torch.equal(activations, network.capture(inputs, [second.call]).activations[second.call].detach())
    places = activations.shape[2] * activations.shape[3]
    expected = torch.einsum("c,chw->hw", row, activations[0]).relu() / places
    torch.testing.assert_close(found.maps[0].values, expected)


def test_it_is_the_same_numbers_in_another_order_and_always_the_same() -> None:
    head = nn.Linear(6, 5)
    one, other = (matrices_of(shuffled_copy(head, ["weight"], 2016))["weight"] for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, head.weight)
    assert torch.equal(one.flatten().sort()[0], head.weight.flatten().sort()[0])
    assert shuffled_copy(head, ["weight"], 2016).bias is head.bias


def test_a_network_of_one_output() -> None:
    class Single(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 1)

    inner, layers = seen(Single())
    network = BinaryNetwork(inner)
    other = network.with_random_head(layers, 2, 2016)
    assert other is not None
    logits = other.predict(images(2))
    assert torch.equal(logits[:, 0], -logits[:, 1])
    assert not torch.allclose(logits, network.predict(images(2)), rtol=0.01)


class Unknown(Plain):
    """Something with weights stands behind what gives out the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Linear(5, 7)
        self.matrix = nn.Parameter(torch.ones(3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.mixing(super().forward(x)) @ self.matrix[0].T
        return logits


def test_where_the_head_is_not_known_there_is_none() -> None:
    network, layers = seen(Unknown())
    assert network.with_random_head(layers, 5, 2016) is None


class Zeroed(Plain):
    """A head that looks at nothing."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(x)).mean((2, 3)) * 0) + x.mean((1, 2, 3))[:, None]
        return logits


def test_a_head_whose_weights_play_no_part_is_told() -> None:
    network, layers = seen(Zeroed())
    other = network.with_random_head(layers, 5, 2016)
    if other is not None:
        with pytest.raises(ModelOutputError, match="whatever its weights are"):
            other.predict(images(2))


def test_matrices_of_the_network_itself() -> None:
    """As of a zero-shot model, whose classes are sentences that it keeps."""

    class Sentences(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Plain()
            self.register_buffer("sentences", torch.randn(4, 5, generator=torch.Generator().manual_seed(1)))

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.body(x) @ self.sentences.T
            return logits

    network, layers = seen(Sentences())
    assert set(matrices_of(network._module)) == {"sentences"}
    before = network.predict(images(2))
    other = network.with_random_head(layers, 4, 2016)
    assert other is not None
    assert not torch.allclose(other.predict(images(2)), before, rtol=0.01)
    assert torch.equal(network.predict(images(2)), before)
