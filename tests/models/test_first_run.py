"""How a model takes its input is found out at load, and why it does not is said as it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.models.host import HowTo

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.models.conftest import LoadToy

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
RAW: dict[str, Any] = {"mean": 0, "std": 1}


class Net(nn.Module):
    """A convolution to 4 × 4 cells, and a linear layer on all of them; ``compute`` is the forward pass."""

    def __init__(self, compute: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(64, 3)
        self.compute = compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)

    def all(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).relu().flatten(1))
        return logits


class TestPixelsThatMustLieByChannel:
    """A ``view()`` of a convolution's output raises for pixels as they lie in pictures, channels last."""

    NET = staticmethod(lambda net, x: net.head(net.body(x).relu().view(-1, 64)))

    def test_are_rearranged(self, load_toy: LoadToy) -> None:
        host = load_toy(Net(self.NET), **RAW)
        direct = Net(Net.all)(torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 255)

        np.testing.assert_allclose(host.predict(PICTURES), direct.detach(), atol=1e-6)

    def test_maps_are_those_of_the_same_network_that_takes_either(self, load_toy: LoadToy) -> None:
        how = HowTo(("body",), ("gradcam", "hirescam", "ablationcam"))
        targets = [Targets((0, 1, 2))] * 2
        rearranged, plain = (
            load_toy(Net(compute), **RAW).explain(PICTURES, targets, how) for compute in (self.NET, Net.all)
        )
        for found, expected in zip(rearranged, plain, strict=True):
            for one, other in zip(found.maps, expected.maps, strict=True):
                np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-6)


def raises(net: Net, x: Tensor) -> Tensor:
    raise RuntimeError


def one_at_a_time(net: Net, x: Tensor) -> Tensor:
    return net.all(x.reshape(1, 3, 8, 8))


def keeps_gradients(net: Net, x: Tensor) -> Tensor:
    features = net.body(x).relu()
    features.register_hook(lambda _gradient: None)
    logits: Tensor = net.head(features.flatten(1))
    return logits


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (one_at_a_time, r"one picture at a time, but not two: shape .* is invalid.*\. Let forward\(\) take the number"),
        (lambda net, x: net.all(x.permute(0, 3, 1, 2)), r"takes its pictures as \(N, height, width, channels\)"),
        (keeps_gradients, r"needs gradients in forward\(\), .*: cannot register a hook"),
        (lambda net, x: net.all(x[:, :, :5]), r"cannot compute a picture of 8×8 pixels: mat1 and mat2"),
        (raises, r"cannot compute a picture of 8×8 pixels: RuntimeError$"),
    ],
    ids=["one at a time", "channels last", "gradients", "size", "no words"],
)
def test_the_reason_given_is_the_reason(
    compute: Callable[[Net, Tensor], Tensor], reason: str, load_toy: LoadToy
) -> None:
    with pytest.raises(ModelLoadError, match=reason):
        load_toy(Net(compute))


def test_code_that_ends_the_process_ends_this_model_alone(load_toy: LoadToy) -> None:
    """As argparse does with arguments that are not its own: the worker and its other models go on."""
    with pytest.raises(ModelLoadError, match=r"it calls sys\.exit\(\), as argparse does"):
        load_toy(Net(lambda _net, _x: sys.exit(2)))


def test_what_nobody_expected_is_named(load_toy: LoadToy) -> None:
    class Odd(Net):
        def named_parameters(self, *_args: Any, **_kwargs: Any) -> Any:
            raise ArithmeticError("out of luck.\nAnd more.")

    with pytest.raises(ModelLoadError, match=r"unexpectedly, with ArithmeticError: out of luck\. The log has more\.$"):
        load_toy(Odd(Net.all))


def test_an_input_that_asks_for_a_gradient_is_none_of_our_business(load_toy: LoadToy) -> None:
    host = load_toy(Net(lambda net, x: net.all(x.requires_grad_())))
    expected = load_toy(Net(Net.all))

    assert torch.equal(host.predict(PICTURES), expected.predict(PICTURES))
