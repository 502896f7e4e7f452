"""What a network is to methods and the catalogue, whichever computes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from torch import Tensor, nn

import service
from service.cam.capture import Capture
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.layers import LayerCall
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets, Top
from service.errors import ModelOutputError
from tests.cam.models import Plain, frozen, images, layers_of, prepared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.cam.layers import Layer
    from service.cam.modules import ModuleDescription
    from service.cam.network import AttentionCapture, Network

SIGNED = CamOptions(signed=True)


class SplitNetwork:
    """Two functions: what comes before the layer "first", and what comes behind it. There is no module to hook."""

    def __init__(self, before: Callable[[Tensor], Tensor], behind: Callable[[Tensor], Tensor]) -> None:
        self.before, self.behind = before, behind

    def predict(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            return self.behind(self.before(inputs))

    def capture(self, inputs: Tensor, layers: Sequence[LayerCall], derivatives: int = 1) -> Capture:
        assert list(layers) == [LayerCall("first")]
        with torch.no_grad():
            found = self.before(inputs)
        activations = found.detach().requires_grad_(derivatives > 0)
        return Capture(self.behind(activations), {LayerCall("first"): activations})

    def resume(self, inputs: Tensor, layer: Layer, activations: Tensor) -> Tensor:
        assert len(inputs) == 1
        assert layer.call == LayerCall("first")
        with torch.no_grad():
            return self.behind(activations)

    def with_random_head(self, *_: object) -> SplitNetwork | None:
        return _not_needed()

    def beside_random_head(self, *_: object) -> SplitNetwork | None:
        return _not_needed()

    def modules(self) -> dict[str, ModuleDescription]:
        return _not_needed()

    def observe(self, *_: object) -> Tensor:
        return _not_needed()

    def watch(self, *_: object) -> NoReturn:
        _not_needed()

    def altered(self, *_: object) -> set[tuple[str, int]]:
        return set()

    def biases(self) -> dict[str, Tensor]:
        return _not_needed()

    def capture_attention(self, *_: object) -> AttentionCapture:
        return _not_needed()


def _not_needed() -> NoReturn:
    pytest.fail("a method of one layer needs no more than predict, capture and resume")


@pytest.fixture
def pair() -> tuple[Network, Network]:
    """The same network twice: as a module, and split by hand."""
    model = frozen(Plain())
    first, second, head = (model.get_submodule(name) for name in ("first", "second", "head"))
    return EagerNetwork(model), SplitNetwork(first, lambda x: head(second(x).mean((2, 3))))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.uses_layer])
def test_no_method_knows_which_network_it_has(method: str, pair: tuple[Network, Network]) -> None:
    eager, split = pair
    layers, targets = layers_of(frozen(Plain()), "first"), [Targets((Top(1), 3)), Targets((0,), against=2)]
    if METHODS[method].score == "finer":
        targets[1] = Targets((0,))
    expected, found = (explain(each, images(2), targets, layers, [method], SIGNED) for each in (eager, split))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.logits, other.logits)
        assert len(one.maps) == len(other.maps)
        for raw, wanted in zip(one.maps, other.maps, strict=True):
            assert (raw.layer, raw.method, raw.target) == (wanted.layer, wanted.method, wanted.target)
            assert wanted.values.any()
            torch.testing.assert_close(raw.values, wanted.values, rtol=1e-4, atol=1e-5)


def test_options_of_maps_need_nothing_else(pair: tuple[Network, Network]) -> None:
    layers, options = layers_of(frozen(Plain()), "first"), CamOptions(smooth=2, flip=True)
    expected, found = (explain(each, images(1), [Targets((0,))], layers, ["gradcam"], options) for each in pair)
    torch.testing.assert_close(found[0].maps[0].values, expected[0].maps[0].values)


def test_hooks_are_registered_in_one_module() -> None:
    root = Path(service.__file__).parent
    registering = re.compile(r"\bregister_\w*hook\w*\(")
    assert [str(file.relative_to(root)) for file in root.rglob("*.py") if registering.search(file.read_text())] == [
        "cam/eager.py"
    ]


# Eager networks


class TwoHeads(nn.Module):
    """One body, and logits of five and of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True))
        self.fine, self.coarse = nn.Linear(4, 5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x).mean((2, 3))
        return {"fine": self.fine(features), "coarse": self.coarse(features)}


@pytest.mark.parametrize("head", ["fine", "coarse"])
def test_a_network_of_a_head_is_that_of_a_module_with_this_head_alone(head: str) -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model.get_submodule("body"), model.get_submodule(head)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.body(x).mean((2, 3)))
            return logits

    model = frozen(TwoHeads())
    alone = Alone().eval()
    layers = layers_of(alone, "body")
    methods = ["gradcam", "ablationcam", "fullgrad"]
    targets = [Targets((0, 2))] * 2
    expected = explain(EagerNetwork(alone), images(2), targets, layers, methods, SIGNED)
    found = explain(EagerNetwork(model, head), images(2), targets, layers, methods, SIGNED)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.logits, other.logits)
        for raw, wanted in zip(one.maps, other.maps, strict=True):
            torch.testing.assert_close(raw.values, wanted.values)


@pytest.mark.parametrize("head", [None, "medium"])
def test_an_output_without_logits_is_refused(head: str | None) -> None:
    with pytest.raises(ModelOutputError, match="must return logits"):
        predict(EagerNetwork(frozen(TwoHeads()), head), images(1))


def test_observing_shows_every_call_in_forward_order() -> None:
    model, _ = prepared("residual")
    seen: list[tuple[LayerCall, object]] = []
    inputs = images(2).requires_grad_()
    logits = EagerNetwork(model).observe(
        inputs, ["relu", "stem", "block"], lambda call, out, _: seen.append((call, out))
    )
    calls = [LayerCall("stem"), LayerCall("relu", 0), LayerCall("relu", 1), LayerCall("relu", 2), LayerCall("block")]
    assert [call for call, _ in seen] == calls
    outputs = [output for _, output in seen if isinstance(output, Tensor)]
    assert torch.equal(outputs[0], model.get_submodule("stem")(inputs))  # the ReLU behind it works in place
    gradients = torch.autograd.grad(logits.sum(), [inputs, *outputs])
    assert all(gradient.any() for gradient in gradients)
