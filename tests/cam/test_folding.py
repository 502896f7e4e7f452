"""A network with its normalisations in its convolutions: the same function, and the network's own where it is not."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from service.cam.capture import TOLERANCE, gradients, logits_apart
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.folded_convolution import Pending
from service.cam.folding import FoldedNetwork, NotFolded, _some_of, folded
from service.cam.layers import LayerCall
from service.cam.targets import Targets
from tests.cam.models import images, layers_of, nested

if TYPE_CHECKING:
    from collections.abc import Callable

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
    return folded(frozen(module), IMAGES.to(next(module.parameters()).dtype))


def why_not(module: nn.Module) -> str:
    with pytest.raises(NotFolded) as told:
        folded(module, IMAGES)
    return str(told.value)


def is_left_alone(module: nn.Module) -> bool:
    """Whether no normalisation is folded, and the logits of other pictures than that at load are the network's own."""
    try:
        found = folded(frozen(module), IMAGES)
    except NotFolded:
        return True
    logits = [each.predict(IMAGES * 2) for each in (found, EagerNetwork(module))]
    torch.testing.assert_close(*logits)
    return all(fold.normalisation is None for fold in found._folds)


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
    # 3 · (2x + 1 - 5) / 2 - 4 = 3x - 10
    (fold,) = found._folds
    pixels = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    opened = fold.normalise(fold.convolve(pixels))
    assert isinstance(opened, Pending)
    assert opened.computed_for("other").flatten().tolist() == pytest.approx([-10.0, -7.0])
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_in_another_precision_it_is_folded_too_and_maps_are_near_to_those_of_float32(dtype: torch.dtype) -> None:
    net = Net()
    asked = [Targets((1,))] * 3, layers_of(net, "bn", "relu"), ["gradcam"]
    own = EagerNetwork(frozen(copy.deepcopy(net)))
    found = folded(frozen(net).to(dtype), IMAGES.to(dtype))
    for mine, other in zip(explain(own, IMAGES, *asked), explain(found, IMAGES.to(dtype), *asked), strict=True):
        assert logits_apart(other.logits, mine.logits) < TOLERANCE[dtype] + 1e-5
        for one, same in zip(nested(mine), nested(other), strict=True):
            apart = float((one[0][0] - same[0][0]).abs().max() / one[0][0].abs().max())
            assert apart < TOLERANCE[dtype] + 1e-5


def test_the_output_of_a_folded_convolution_is_what_it_is_in_the_network() -> None:
    net = Net()
    found = quick(net)
    assert [fold.convolution for fold in found._folds] == [net.conv]
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


def test_the_network_stays_as_it_is() -> None:
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = quick(net)
    found.predict(IMAGES)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not net.conv._forward_hooks
    assert not {"forward"} & (vars(net.conv).keys() | vars(net.bn).keys())


def test_what_is_compared_is_what_a_layer_gave_out_whatever_is_written_into_it_then() -> None:
    output = torch.ones(1, 2, 3, 3)
    (values,) = _some_of(LayerCall("bn"), output).values()
    output.zero_()  # as an in-place ReLU
    assert values.shape == output.shape
    assert values.all()


def test_what_its_weights_take_is_known() -> None:
    weights, biases, factors = 6 * 3 * 3 * 3, 6, 6
    assert quick(Net(bias=False)).more_bytes == 4 * (weights + biases + factors + weights), "and those for gradients"
    assert quick(Net(bias=False).double()).more_bytes == 8 * (6 * 3 * 3 * 3 + 6), "of which nothing is packed"


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


class Heads(Net):
    """Has two outputs."""

    def forward(self, x: Tensor) -> Any:
        return {"one": super().forward(x), "other": super().forward(x)}


@pytest.mark.parametrize("kind", [Skip, Twice, Between, Detached])
def test_what_would_not_be_the_same_is_left_alone(kind: type[nn.Module]) -> None:
    assert is_left_alone(frozen(kind()))


class Raises(Net):
    """Wants pictures without a graph."""

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise ValueError("no graphs here.")
        return super().forward(x)


def test_it_is_said_why_a_network_is_not_folded() -> None:
    assert why_not(frozen(Raises())) == "Watched, it raises an error. ValueError: no graphs here."
    assert why_not(frozen(Heads())).startswith("Watched, it raises an error. ")
    assert (
        why_not(frozen(nn.Sequential(nn.Flatten(), nn.Linear(IMAGES[0].numel(), 2))))
        == "It has no plain convolution that would be computed sooner."
    )


def listens(net: Net) -> None:
    net.conv.register_forward_hook(lambda _module, _inputs, output: output * 2)


def changes_gradients(net: Net) -> None:
    net.bn.register_full_backward_hook(lambda _module, _, given: (given[0] * 2,))  # type: ignore[index]


def has_a_forward_of_its_own(net: Net) -> None:
    own = net.conv.forward
    vars(net.conv)["forward"] = lambda x: own(x * 2)


@pytest.mark.parametrize("change", [listens, changes_gradients, has_a_forward_of_its_own])
def test_parts_that_do_more_than_their_kind_are_left_alone(change: Callable[[Net], None]) -> None:
    net = Net()
    change(net)
    assert is_left_alone(net)


def test_a_normalisation_by_the_batch_itself_is_left_alone() -> None:
    net = Net()
    net.bn = nn.BatchNorm2d(6, track_running_stats=False)
    assert is_left_alone(net)


def test_a_container_that_gives_out_what_the_convolution_does_is_left_alone() -> None:
    class Contained(Net):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(self.conv)

        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.bn(self.stem(x)))

    assert is_left_alone(Contained())


# -- what the pictures at load do not show ----------------------------------------------------------------------------


class Branching(Net):
    """Goes another way for bright pictures, which those at load are not."""

    def forward(self, x: Tensor) -> Tensor:
        features = self.conv(x)
        return self.pooled(self.otherwise(features) if x.mean() > 1 else self.normalised(features))

    def normalised(self, features: Tensor) -> Tensor:
        found: Tensor = self.bn(features)
        return found

    def otherwise(self, features: Tensor) -> Tensor:
        raise NotImplementedError


class Beside(Branching):
    """Uses the convolution's output beside the normalisation."""

    def otherwise(self, features: Tensor) -> Tensor:
        return self.normalised(features) + features


class Instead(Branching):
    """Uses it instead."""

    def otherwise(self, features: Tensor) -> Tensor:
        return features


class Looks(Branching):
    """Looks at it where no graph shows it."""

    def otherwise(self, features: Tensor) -> Tensor:
        return self.normalised(features) * (2 if features.detach().mean() > 0 else 3)


class NormalisesTwice(Branching):
    """Changes in place what it normalises again."""

    def otherwise(self, features: Tensor) -> Tensor:
        return self.normalised(features).zero_() + self.normalised(features)


class NormalisesACopy(Branching):
    """Normalises what is made of it."""

    def otherwise(self, features: Tensor) -> Tensor:
        return self.normalised(features.clone())


@pytest.mark.parametrize("kind", [Beside, Instead, Looks, NormalisesTwice, NormalisesACopy])
def test_a_picture_that_takes_another_way_is_computed_by_the_modules_as_they_are(kind: type[Branching]) -> None:
    net = kind()
    own, found = EagerNetwork(frozen(net)), quick(net)
    (layer,), bright = layers_of(net, "relu"), IMAGES + 3
    one, other = (each.capture(bright, [layer.call]) for each in (own, found))
    torch.testing.assert_close(other.logits, one.logits, rtol=0, atol=0)
    torch.testing.assert_close(other.activations, one.activations, rtol=0, atol=0)
    assert not found.more_bytes, "and so are those that come after it, lest each takes two passes"
    assert found.has_strayed
    torch.testing.assert_close(found.predict(bright), own.predict(bright), rtol=0, atol=0)


def test_an_error_of_the_network_itself_is_its_own_and_changes_nothing() -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 1:
                raise ValueError("too bright")
            return super().forward(x)

    found = quick(Picky())
    with pytest.raises(ValueError, match="too bright"):
        found.predict(IMAGES + 3)
    assert not found.has_strayed


def test_weights_that_the_code_reads_are_the_networks_own() -> None:
    class Reads(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.pooled(self.bn(self.conv(x)) * self.bn.eps + functional.conv2d(x, self.conv.weight))

    net = Reads()
    torch.testing.assert_close(quick(net).predict(IMAGES), EagerNetwork(net).predict(IMAGES))


class Keeps(Net):
    """Keeps what a hook saw, beside what no copy can be made of: a lock, and a function of its own convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.seen, self.lock = nn.Sequential(self.conv, self.bn), dict[str, Tensor](), threading.Lock()
        self.block.register_forward_hook(lambda _module, _inputs, output: self.seen.update(last=output))

    def forward(self, x: Tensor) -> Tensor:
        with self.lock:
            self.block(x)
            return self.pooled(self.seen["last"])


def test_what_a_network_keeps_there_is_once() -> None:
    net = Keeps()
    own = EagerNetwork(frozen(net))
    torch.testing.assert_close(quick(net).predict(IMAGES * 2), own.predict(IMAGES * 2))


class Checkpointed(Net):
    """Calls its modules once more in the backward pass, when they are not folded any more."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = checkpoint(super().forward, self.stem(x), use_reentrant=False)
        return logits

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)


def test_a_checkpoint_is_computed_twice_by_the_modules_as_they_are() -> None:
    net, weights = Checkpointed(), torch.eye(4)[[0, 1, 2]]
    networks = EagerNetwork(frozen(net)), quick(net)
    one, other = (gradients(each.capture(IMAGES, [LayerCall("stem")]), weights) for each in networks)
    torch.testing.assert_close(other, one, rtol=0, atol=0)
