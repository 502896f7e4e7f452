"""Whatever a forward pass does that can be differentiated, maps and logits are those of the network by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from service.cam.targets import Targets
from service.errors import ModelLoadError
from service.models.host import HowTo
from tests.direct_cam import assert_maps_are_direct, normalised
from tests.models.test_fitness import PICTURE, SPEC, Net

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.models.conftest import LoadToy


def under_autocast(net: Net, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        return net.all(x)


def keeping_what_it_saw(net: Net, x: Tensor) -> Tensor:
    features = net.body(x)
    net.seen = features
    return net.behind(features)


def counting(net: Net, x: Tensor) -> Tensor:
    net.calls = getattr(net, "calls", torch.zeros(1)) + 1
    return net.all(x)


def straight_through(net: Net, x: Tensor) -> Tensor:
    features = net.last(net.body(x)).relu()
    return net.pooled(features + (features.round() - features).detach())


def scaled_in_place(net: Net, x: Tensor) -> Tensor:
    features = net.last(net.body(x))
    return net.pooled(features.mul_(2).relu())


def scaled_behind_the_graph(net: Net, x: Tensor) -> Tensor:
    features = net.last(net.body(x)).relu()
    features.data = features.data * 2
    return net.pooled(features)


def by_its_own_maximum(net: Net, x: Tensor) -> Tensor:
    features = net.body(x)
    return net.behind(features / features.abs().amax((1, 2, 3), keepdim=True).detach())


def sorted_places(net: Net, x: Tensor) -> Tensor:
    logits: Tensor = net.head(net.last(net.body(x)).flatten(2).sort(2).values[:, :, -9:].mean(2))
    return logits


def by_functional_gradient(net: Net, x: Tensor) -> Tensor:
    return net.behind(torch.func.grad(lambda y: y.square().sum())(net.body(x)))


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(_ctx: object, gradient: Tensor) -> Tensor:
        return gradient * 2


def normed(net: Net, weight_norm: Callable[..., object], spectral_norm: Callable[..., object]) -> Net:
    weight_norm(net.last)
    spectral_norm(net.body[2])
    return net


def doubled_before(net: Net) -> Net:
    net.last.register_forward_pre_hook(lambda _, args, kwargs: ((2 * args[0],), kwargs), with_kwargs=True)
    return net


SOUND: dict[str, Callable[[], Net]] = {
    "autocast": lambda: Net(under_autocast),
    "features kept": lambda: Net(keeping_what_it_saw),
    "a counter": lambda: Net(counting),
    "straight through": lambda: Net(straight_through),
    "in place behind the layer": lambda: Net(scaled_in_place),
    ".data behind the layer": lambda: Net(scaled_behind_the_graph),
    "its own maximum": lambda: Net(by_its_own_maximum),
    "sorted": lambda: Net(sorted_places),
    "torch.func.grad": lambda: Net(by_functional_gradient),
    "once differentiable": lambda: Net(custom_behind(OnceDifferentiable)),
    "checkpoint": lambda: Net(lambda net, x: net.behind(checkpoint(net.body, x, use_reentrant=False))),
    "weight_norm": lambda: normed(
        Net(), nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm
    ),
    "a hook that changes the input": lambda: doubled_before(Net()),
    "both views": lambda: Net(lambda net, x: (net.all(x) + net.all(x.flip(3))) / 2),
}


def custom_behind(function: type[torch.autograd.Function]) -> Callable[[Net, Tensor], Tensor]:
    return lambda net, x: net.pooled(function.apply(net.last(net.body(x))).relu())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("build", SOUND.values(), ids=SOUND)
def test_what_a_forward_pass_may_do_leaves_maps_and_logits_those_of_the_network(
    build: Callable[[], Net], load_toy: LoadToy
) -> None:
    net = build()
    host = load_toy(net, SPEC)
    inputs = normalised(torch.from_numpy(PICTURE), SPEC)
    (answer,) = host.explain(PICTURE, [Targets((0, 1, 2))], HowTo(("last",), ("gradcam",)))

    torch.testing.assert_close(host.predict(PICTURE), net(inputs).detach(), rtol=1e-5, atol=1e-6)
    assert_maps_are_direct(torch.stack([raw.values for raw in answer.maps]).relu(), net, "last", inputs, (0, 1, 2))


def refusing_gradients(net: Net, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        raise ValueError("inference only")
    return net.all(x)


def into_what_is_there(net: Net, x: Tensor) -> Tensor:
    features = net.last(net.body(x)).relu()
    return net.pooled(torch.mul(features, 2, out=torch.empty_like(features)))


def to_numpy(net: Net, x: Tensor) -> Tensor:
    logits: Tensor = net.head(torch.from_numpy(net.body(x).mean((2, 3)).numpy()))
    return logits


@pytest.mark.parametrize(
    ("compute", "cause"),
    [
        (refusing_gradients, "ValueError: inference only"),
        (into_what_is_there, r"RuntimeError: mul\(\): functions with out=\.\.\. arguments don't support automatic"),
        (to_numpy, "Can't call numpy"),
    ],
)
def test_a_network_that_only_runs_without_gradients_is_refused_with_that_reason(
    compute: Callable[[Net, Tensor], Tensor], cause: str, load_toy: LoadToy
) -> None:
    with pytest.raises(ModelLoadError, match=f"The model predicts, but cannot be run with gradients: .*{cause}"):
        load_toy(Net(compute), SPEC)
