"""Models with hooks of their own, and models that change what they are given: they see what they would see alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.layers import LayerCall
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets
from tests.cam.models import frozen, images, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNED = CamOptions(signed=True)


class Hooked(nn.Module):
    """Two convolutions whose outputs a model may read from where its hooks put them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(inplace=True))
        self.head = nn.Linear(8, 5)
        self.store: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        last = self.second(self.first(x))
        features = [self.store.get("first", last).mean((2, 3)), self.store.get("second", last).square().mean((2, 3))]
        logits: Tensor = self.head(torch.cat(features, 1))
        return logits


def records() -> Hooked:
    """Reads both outputs from the store alone."""
    model = Hooked()
    for name in ("first", "second"):
        model.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: model.store.update({name: out}))
    return model


def records_inputs() -> Hooked:
    """Takes what the second block is given."""
    model = Hooked()
    model.second.register_forward_pre_hook(lambda _m, inputs: model.store.update(first=inputs[0]))
    return model


def records_with_keywords() -> Hooked:
    model = Hooked()

    def record(_module: nn.Module, _args: Any, _kwargs: Any, output: Tensor) -> None:
        model.store["first"] = output

    model.first.register_forward_hook(record, with_kwargs=True, always_call=True)
    return model


def replaces() -> Hooked:
    """Gives another tensor of the same values, shifts an input, and keeps what came of it."""
    model = Hooked()
    model.first.register_forward_hook(lambda _m, _i, output: output * 1)
    model.first.register_forward_hook(lambda _m, _i, output: model.store.update(first=output))
    model.second.register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 1,))
    return model


def prepends() -> Hooked:
    model = Hooked()
    model.second.register_forward_hook(lambda _m, _i, output: model.store.update(second=output), prepend=True)
    return model


BUILDS = [records, records_inputs, records_with_keywords, replaces, prepends]


def uncut_gradcam(model: nn.Module, image: Tensor, layer: str, target: int) -> Tensor:
    """Grad-CAM with a full backward pass, at what the layer itself gave out."""
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep, prepend=True)
    logits = model(image[None].clone().requires_grad_())
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, target], kept[0])
    found: Tensor = (gradient[0].mean((1, 2))[:, None, None] * kept[0][0]).sum(0).detach()
    return found


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("layer", ["first.0", "first", "second.0", "second"])
def test_every_layers_map_is_that_of_the_whole_graph(build: Callable[[], Hooked], layer: str) -> None:
    torch.manual_seed(0)
    model, inputs = frozen(build()), images(2)
    expected = [uncut_gradcam(model, image, layer, target) for image in inputs for target in (0, 3)]
    answers = explain(EagerNetwork(model), inputs, [Targets((0, 3))] * 2, layers_of(model, layer), ["gradcam"], SIGNED)
    for raw, wanted in zip([raw for answer in answers for raw in answer.maps], expected, strict=True):
        torch.testing.assert_close(raw.values, wanted, rtol=1e-4, atol=1e-7)
    assert any(wanted.any() for wanted in expected)


@pytest.mark.parametrize("build", BUILDS)
def test_going_on_from_other_activations_reaches_what_hooks_keep(build: Callable[[], Hooked]) -> None:
    torch.manual_seed(0)
    model, inputs = frozen(build()), images(1)
    (layer,) = layers_of(model, "first")
    network = EagerNetwork(model)
    kept = network.capture(inputs, [layer.call], 0).activations[layer.call]
    own, halved = network.resume(inputs, layer, torch.cat([kept, kept / 2]))
    torch.testing.assert_close(own, predict(network, inputs)[0])
    assert not torch.allclose(own, halved, atol=1e-5)


def test_what_hooks_keep_is_on_the_way_to_the_logits() -> None:
    model = frozen(records())
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(model), images(2))}
    assert by_name["second"].explainable
    assert by_name["first"].on_every_path
    assert len(model.get_submodule("first")._forward_hooks) == 1, "the model's own"


def doubles(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output * 2


def doubles_in_place(_module: nn.Module, _inputs: object, output: Tensor) -> None:
    output.mul_(2)


def rounds(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    return output.to(torch.bfloat16).float()


@pytest.mark.parametrize("hook", [doubles, doubles_in_place, rounds])
def test_a_layer_that_a_hook_of_the_model_changes_is_refused_and_no_other(hook: Callable[..., Tensor | None]) -> None:
    """The network goes on with what the hook made: a map of what was before it would show what nothing reads."""
    torch.manual_seed(0)
    model = Hooked()
    model.first.register_forward_hook(hook)
    found = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(model)), images(2))}
    assert not found["first"].explainable
    assert found["first"].note is not None
    assert "a forward hook of the model changes what this layer gives out" in found["first"].note
    assert all(found[name].explainable for name in ("first.0", "first.1", "second.0", "second"))
    assert len(model.first._forward_hooks) == 1, "the model's own"


def test_of_a_layer_called_twice_only_the_call_that_a_hook_changes_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again, self.head = nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 5)
            self.again.register_forward_hook(lambda _m, given, output: output + 1 if given[0].min() < 0 else None)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.again(self.again(self.stem(x)).relu()).mean((2, 3)))
            return logits

    layers = {layer.name: layer for layer in probe_layers(EagerNetwork(frozen(Twice())), images(2))}
    assert not layers["again:0"].explainable
    assert layers["again:1"].explainable


# Models that write where they should not


class WritesInput(nn.Module):
    """Normalises its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        logits: Tensor = self.head(self.first(x).relu().mean((2, 3)))
        return logits


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.refusal is None])
def test_a_model_that_writes_into_its_input_spoils_nothing(method: str) -> None:
    torch.manual_seed(0)
    model, inputs = frozen(WritesInput()), images(2)
    before, expected = inputs.clone(), predict(EagerNetwork(model), inputs)
    layers = layers_of(model, "first")
    once, again = (explain(EagerNetwork(model), inputs, [Targets((1,))] * 2, layers, [method], SIGNED) for _ in "ab")
    assert torch.equal(inputs, before)
    for one, other, logits in zip(once, again, expected, strict=True):
        assert torch.equal(one.maps[0].values, other.maps[0].values)
        torch.testing.assert_close(one.logits, logits)


class HandsThrough(nn.Module):
    """An identity whose input is changed in place once it has been handed through."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.skip, self.head = nn.Conv2d(3, 4, 3, 4, 1), nn.Identity(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        kept = self.skip(x) * 1
        x += 100
        logits: Tensor = self.head((kept + 0.01 * x).mean((2, 3)))
        return logits


def test_what_was_kept_of_a_layer_is_not_changed_behind_it() -> None:
    model, inputs = frozen(HandsThrough()), images(1)
    captured = EagerNetwork(model).capture(inputs, [LayerCall("skip")])
    assert torch.equal(captured.activations[LayerCall("skip")], model.get_submodule("stem")(inputs))
