from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.cam.capture import gradients
from service.cam.eager import EagerNetwork
from service.cam.explain import Explained, explain, predict
from service.cam.layers import LayerCall
from service.cam.targets import Targets, Top
from service.errors import ModelOutputError
from tests.cam.models import FAMILIES, Plain, Residual, frozen, images, layers_of, nested, reference_gradcam


class Captum(nn.Module):
    """Convolution 1→2 with all-ones 3×3 kernels and biases -50 and -75, in-place ReLU, and a linear layer.

    Its input is 0…15 on a 4×4 grid, so the four windows sum to 45, 54, 81, 90.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(8, 2)
        nn.init.ones_(self.conv.weight)
        assert self.conv.bias is not None
        self.conv.bias.data = torch.tensor([-50.0, -75.0])
        self.fc.weight.data = torch.tensor([[1.0] * 5 + [3.0] * 3, [-1.0] * 8])
        nn.init.zeros_(self.fc.bias)
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.relu(self.conv(x)).flatten(1))
        return logits


INPUT = torch.arange(16.0).view(1, 1, 4, 4)


def one_map(answer: Explained, layer: int = 0, method: int = 0, target: int = 0) -> list[list[float]]:
    found: list[list[float]] = nested(answer)[layer][method][target].tolist()
    return found


def hand_layers(*names: str) -> list[object]:
    from service.cam.catalogue import probe_layers

    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(Captum()), INPUT.repeat(2, 1, 1, 1))}
    return [by_name[name] for name in names]


def test_gradcam_before_the_relu_by_hand() -> None:
    # conv gives [-5, 4, 31, 40] and [-30, -21, 6, 15]. Behind the ReLU the weights of logit 0 are
    # [1, 1, 1, 1] and [1, 3, 3, 3]; the ReLU passes cells 1-3 of channel 0 and cells 2-3 of channel 1, so the
    # gradients are [0, 1, 1, 1] and [0, 0, 3, 3], their means 0.75 and 1.5, and the sum
    # [-3.75 - 45, 3 - 31.5, 23.25 + 9, 30 + 22.5] = [-48.75, -28.5, 32.25, 52.5].
    (answer,) = explain(EagerNetwork(Captum()), INPUT, [Targets((0,))], hand_layers("conv"), ["gradcam"])  # type: ignore[arg-type]
    assert one_map(answer) == [[0.0, 0.0], [32.25, 52.5]]


def test_gradcam_behind_the_relu_by_hand() -> None:
    # Activations [0, 4, 31, 40] and [0, 0, 6, 15]; gradients [1, 1, 1, 1] and [1, 3, 3, 3], their means 1 and 2.5:
    # [0, 4, 31 + 15, 40 + 37.5].
    (answer,) = explain(EagerNetwork(Captum()), INPUT, [Targets((0,))], hand_layers("relu"), ["gradcam"])  # type: ignore[arg-type]
    assert one_map(answer) == [[0.0, 4.0], [46.0, 77.5]]
    assert answer.logits.tolist() == [75.0 + 63.0, -96.0]  # 4+31+40 = 75; 3·(6+15) = 63; all cells sum to 96


def test_evidence_against_a_class_is_an_empty_map() -> None:
    (answer,) = explain(EagerNetwork(Captum()), INPUT, [Targets((1,))], hand_layers("relu"), ["gradcam"])  # type: ignore[arg-type]
    assert one_map(answer) == [[0.0, 0.0], [0.0, 0.0]]


def test_against_explains_the_difference_of_two_logits() -> None:
    # Weights of logit 0 minus those of logit 1: [2, 2, 2, 2] and [2, 4, 4, 4], their means 2 and 3.5.
    (answer,) = explain(EagerNetwork(Captum()), INPUT, [Targets((0,), against=1)], hand_layers("relu"), ["gradcam"])  # type: ignore[arg-type]
    assert one_map(answer) == [[0.0, 8.0], [62.0 + 21.0, 80.0 + 52.5]]


def test_targets_resolve_by_rank_and_keep_their_order() -> None:
    targets = Targets((3, Top(1), Top(2)))
    assert targets.resolve([7, 2]) == (3, 7, 7, 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_a_textbook_implementation(family: str) -> None:
    build, names = FAMILIES[family]
    model, inputs = frozen(build()), images()
    layers = layers_of(model, *names)
    answers = explain(EagerNetwork(model), inputs, [Targets((0, 3))] * len(inputs), layers, ["gradcam"])
    for image, answer in zip(inputs, answers, strict=True):
        for layer, maps in zip(layers, nested(answer), strict=True):
            for target, found in zip((0, 3), maps[0], strict=True):
                expected = reference_gradcam(model, image, layer, target)
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_together_equal_layers_alone(family: str) -> None:
    build, names = FAMILIES[family]
    model, inputs = frozen(build()), images(3)
    layers = layers_of(model, *names)
    targets = [Targets((Top(2),))] * 3
    together = explain(EagerNetwork(model), inputs, targets, layers, ["gradcam"])
    for i, layer in enumerate(layers):
        alone = explain(EagerNetwork(model), inputs, targets, [layer], ["gradcam"])
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(nested(one)[i], nested(other)[0], rtol=1e-4, atol=1e-6)


def test_works_inside_no_grad_and_inference_mode() -> None:
    model, inputs = frozen(Plain()), images(1)
    layers = layers_of(model, "second")
    (expected,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"])
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            (found,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"])
        assert torch.equal(nested(found)[0][0], nested(expected)[0][0])


def test_the_graph_begins_at_the_first_target_layer() -> None:
    model = frozen(Plain())
    captured = EagerNetwork(model).capture(images(2), [LayerCall("second"), LayerCall("second.1")])
    first, last = captured.activations[LayerCall("second.1")], captured.activations[LayerCall("second")]
    assert first.is_leaf
    assert not last.is_leaf
    # A layer before the cut is not recorded at all.
    assert captured.logits.grad_fn is not None
    alone = EagerNetwork(model).capture(images(2), [LayerCall("second")])
    assert alone.activations[LayerCall("second")].is_leaf


def test_in_place_successors_do_not_change_what_was_captured() -> None:
    model, inputs = frozen(Plain()), images(2)
    captured = EagerNetwork(model).capture(inputs, [LayerCall("first.1")])
    expected = model.get_submodule("first.1")(model.get_submodule("first.0")(inputs))
    assert torch.equal(captured.activations[LayerCall("first.1")], expected)
    assert expected.min() < 0  # otherwise the ReLU would have nothing to spoil


def test_each_call_of_a_repeated_module_is_captured() -> None:
    model, inputs = frozen(Residual()), images(2)
    calls = [LayerCall("relu", call) for call in range(3)]
    captured = EagerNetwork(model).capture(inputs, calls)
    after_stem = model.get_submodule("stem")(inputs).relu()
    assert torch.equal(captured.activations[calls[0]], after_stem)
    in_branch = model.get_submodule("branch")(after_stem).relu()
    assert torch.equal(captured.activations[calls[1]], in_branch)
    last = (model.get_submodule("narrow")(in_branch) + after_stem).relu()
    torch.testing.assert_close(captured.activations[calls[2]], last)


def test_a_call_that_never_happens_is_an_error() -> None:
    with pytest.raises(ModelOutputError, match="call 3 of layer 'relu'"):
        EagerNetwork(frozen(Residual())).capture(images(1), [LayerCall("relu", 3)])


def test_a_score_that_does_not_depend_on_the_layer_has_gradient_zero() -> None:
    class Constant(Plain):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            return torch.ones(len(x), 5)

    captured = EagerNetwork(frozen(Constant())).capture(images(2), [LayerCall("second")])
    (found,) = gradients(captured, torch.ones(2, 5)).values()
    assert found.shape == (2, 6, 8, 8)
    assert not found.any()


@pytest.mark.parametrize(
    "output", [lambda x: (x, x), lambda x: x[:, :, None], lambda x: x[:1], lambda x: {"logits": x}]
)
def test_what_is_not_logits_is_refused(output: object) -> None:
    class Odd(Plain):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = output(super().forward(x))  # type: ignore[operator]
            return found

    with pytest.raises(ModelOutputError, match=r"logits of shape \(batch, classes\)"):
        predict(EagerNetwork(frozen(Odd())), images(2))


def test_nan_becomes_an_error_that_names_the_layer() -> None:
    model, inputs = frozen(Plain()), images(2)
    layers = layers_of(model, "second")
    bad = inputs.clone()
    bad[1] = float("nan")
    with pytest.raises(ModelOutputError, match="logits are not finite"):
        explain(EagerNetwork(model), bad, [Targets((0,))] * 2, layers, ["gradcam"])

    class Huge(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1e38

    scaled = frozen(Plain())
    scaled.head = nn.Sequential(Huge(), nn.Linear(6, 5), Huge())
    frozen(scaled)
    with pytest.raises(ModelOutputError, match="not finite"):
        explain(EagerNetwork(scaled), inputs, [Targets((0,))] * 2, layers, ["gradcam"])


@given(shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_gradcam_is_linear_in_the_score(shift: float, scale: float) -> None:
    """A constant added to the logits changes nothing; a factor on them is a factor on the map."""
    model, inputs = frozen(Plain()), images(2)
    layers = layers_of(model, "second")
    before = explain(EagerNetwork(model), inputs, [Targets((2,))] * 2, layers, ["gradcam"])
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    head.weight.mul_(scale)
    head.bias.mul_(scale).add_(shift)
    after = explain(EagerNetwork(model), inputs, [Targets((2,))] * 2, layers, ["gradcam"])
    for one, other in zip(after, before, strict=True):
        torch.testing.assert_close(nested(one)[0][0], nested(other)[0][0] * scale, rtol=1e-3, atol=1e-5)
