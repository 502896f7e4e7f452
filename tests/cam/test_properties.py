"""What must hold of every method on every kind of network."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from service.cam import work
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.methods import METHODS
from service.cam.targets import CamOptions, Targets, Top
from service.errors import ModelOutputError
from tests.cam.models import FAMILIES, Plain, allowed, frozen, images, layers_of, nested, prepared

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer

SIGNED = CamOptions(signed=True)

every_method = pytest.mark.parametrize(("family", "method"), allowed())
# Examples differ in rows and targets alone: a failure is as readable unshrunk, and shrinking would take minutes.
few_examples = settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-3) -> None:
    """Compare raw maps, relative to the greatest magnitude of the expected one."""
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-6 + tolerance * float(expected.abs().max()))


# One row is one row


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[int], list[Targets]]:
    """Rows of six images, in any order and number, and targets for each."""
    rows = draw(st.lists(st.integers(0, 5), min_size=2, max_size=4))
    classes = st.lists(st.one_of(st.integers(0, 4), st.builds(Top, st.integers(1, 2))), min_size=1, max_size=2)
    targets = [Targets(tuple(draw(classes)), draw(st.sampled_from([None, 2]))) for _ in rows]
    return rows, targets


@every_method
@few_examples
@given(batch=batches())
def test_a_row_does_not_depend_on_its_batch(family: str, method: str, batch: tuple[list[int], list[Targets]]) -> None:
    """Any order, any mix of targets, any batch-mates: the same as one image and one target alone."""
    model, layers = prepared(family)
    rows, targets = batch
    together = explain(EagerNetwork(model), images(6)[rows], targets, layers, [method], SIGNED)
    for row, asked, answer in zip(rows, targets, together, strict=True):
        for raw in answer.maps:
            assert_same(raw.values, alone(family, method, row, raw.target, asked.against)[raw.layer])


@cache
def alone(family: str, method: str, row: int, target: int, against: int | None) -> dict[str, Tensor]:
    """The raw maps of one of six images for one target, by layer; examples have many of them in common."""
    model, layers = prepared(family)
    asked = [Targets((target,), against)]
    (answer,) = explain(EagerNetwork(model), images(6)[[row]], asked, layers, [method], SIGNED)
    return {raw.layer: raw.values for raw in answer.maps}


@every_method
def test_a_permuted_batch_gives_permuted_maps(family: str, method: str) -> None:
    model, layers = prepared(family)
    inputs, order = images(4), [2, 0, 3, 1]
    targets = [Targets((target, (target + 2) % 5)) for target in range(4)]
    before = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    after = explain(EagerNetwork(model), inputs[order], [targets[n] for n in order], layers, [method], SIGNED)
    for n, answer in zip(order, after, strict=True):
        for found, expected in zip(answer.maps, before[n].maps, strict=True):
            assert (found.layer, found.target) == (expected.layer, expected.target)
            assert_same(found.values, expected.values)


@pytest.mark.parametrize("family", FAMILIES)
def test_methods_together_equal_methods_alone(family: str) -> None:
    model, layers = prepared(family)
    methods = [method for name, method in allowed() if name == family]
    inputs, targets = images(2), [Targets((Top(2), 1)), Targets((3,), against=0)]
    together = explain(EagerNetwork(model), inputs, targets, layers, methods, SIGNED)
    for j, method in enumerate(methods):
        alone = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
        for one, other in zip(together, alone, strict=True):
            for i in range(len(layers)):
                assert_same(nested(one)[i][j], nested(other)[i][0])


# The model stays as it was


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: nn.Module, before: dict[str, Tensor]) -> None:
    for module in model.modules():
        assert not (module._forward_hooks)
        assert not (module._forward_pre_hooks)
        assert not (module._backward_hooks)
        assert not module.training
    for parameter in model.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@every_method
def test_no_trace_is_left(family: str, method: str) -> None:
    model, layers = prepared(family)
    inputs, before = images(2), snapshot(model)
    unchanged = inputs.clone()
    explain(EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, [method], CamOptions(smooth=1, flip=True))
    assert_untouched(model, before)
    assert torch.equal(inputs, unchanged)
    assert not inputs.requires_grad
    assert inputs.grad is None


class Fuse(Exception):
    """A forward pass was stopped."""


@every_method
def test_no_trace_is_left_when_the_model_fails(family: str, method: str) -> None:
    """It fails in its first, second… forward pass, in its last module, until the method gets through."""
    build, names = FAMILIES[family]
    model = frozen(build())
    layers, inputs, before = layers_of(model, *names[:1]), images(1), snapshot(model)
    passes = 0
    limit = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes > limit:
            raise Fuse

    failures = 0
    for limit in (0, 1, 2, 5, 1000):  # noqa: B007  # read by the hook
        passes = 0
        handle = next(reversed(list(model.children()))).register_forward_hook(count)
        try:
            explain(EagerNetwork(model), inputs, [Targets((0,))], layers, [method])
        except Fuse:
            failures += 1
        finally:
            handle.remove()
        assert_untouched(model, before)
    assert 1 <= failures <= 4


@every_method
def test_no_trace_is_left_when_others_end_it(family: str, method: str) -> None:
    """``checkpoint`` raises when a deadline has passed or a caller has gone."""
    model, layers = prepared(family)
    before = snapshot(model)

    def give_up(done: int, total: int) -> None:
        assert 0 <= done < total
        assert_untouched(model, before)  # nothing is in place while others have their turn
        if done:
            raise Fuse

    with suppress(Fuse):
        explain(EagerNetwork(model), images(2), [Targets((0,))] * 2, layers[:1], [method], checkpoint=give_up)
    assert_untouched(model, before)


# Chunks


@pytest.mark.parametrize(("family", "method"), [each for each in allowed() if METHODS[each[1]].slow])
def test_the_size_of_chunks_does_not_matter(family: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, layers = prepared(family)
    inputs, targets = images(2), [Targets((0, 3)), Targets((Top(1),))]
    whole = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    for elements in (1, 3 * 16 * 3 * 32 * 32):  # one row at a time; three in Score-CAM
        monkeypatch.setattr(work, "_CHUNK_ELEMENTS", elements)
        steps: list[tuple[int, int]] = []
        cut = explain(
            EagerNetwork(model),
            inputs,
            targets,
            layers,
            [method],
            SIGNED,
            checkpoint=lambda *step, to=steps: to.append(step),
        )
        assert steps
        for one, other in zip(cut, whole, strict=True):
            for i in range(len(layers)):
                assert_same(nested(one)[i][0], nested(other)[i][0])


def test_chunks_report_their_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_CHUNK_ELEMENTS", 1)
    model, inputs = frozen(Plain()), images(2)
    steps: list[tuple[int, int]] = []
    layers = layers_of(model, "second")  # six channels, two rows
    explain(
        EagerNetwork(model),
        inputs,
        [Targets((0,))] * 2,
        layers,
        ["scorecam"],
        checkpoint=lambda *step: steps.append(step),
    )
    rows = [[(done, 12) for done in range(begin, begin + 6)] for begin in (0, 6)]
    # Each row begins with a pass of its own, which is a step, too.
    assert steps == [(0, 1), (0, 1), rows[0][0], *rows[0], rows[1][0], *rows[1]]


# Ablation-CAM


def ablated_one_by_one(model: nn.Module, image: Tensor, layer: Layer, target: int) -> Tensor:
    """Ablation-CAM as the paper has it: one whole forward pass per channel, with the channel set to zero."""
    kept: list[Tensor] = []

    def ablate(channel: int | None) -> float:
        calls = 0

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            if calls - 1 != layer.call.call:
                return None
            if channel is None:
                kept.append(layer.to_nchw(output)[0].clone())
                return None
            changed = output.clone()
            assert layer.layout is not None
            if layer.layout.kind == "nchw":
                changed[:, channel] = 0
            else:
                changed[..., layer.layout.special :, channel] = 0  # patches, or the rows' columns
            return changed

        handle = model.get_submodule(layer.call.module).register_forward_hook(hook)
        try:
            return float(model(image[None])[0, target])
        finally:
            handle.remove()

    with torch.no_grad():
        score = ablate(None)
        drops = torch.tensor([score - ablate(channel) for channel in range(len(kept[0]))])
        return (drops[:, None, None] / abs(score) * kept[0]).sum(0)


@pytest.mark.parametrize("family", FAMILIES)
def test_ablationcam_equals_one_forward_pass_per_channel(family: str) -> None:
    """On layers of every path, where the layers before run once, and on branches, where they run for every channel."""
    model, layers = prepared(family)
    inputs = images(2)
    answers = explain(EagerNetwork(model), inputs, [Targets((0, 4))] * 2, layers, ["ablationcam"], SIGNED)
    for image, answer in zip(inputs, answers, strict=True):
        for layer, (found,) in zip(layers, nested(answer), strict=True):
            for k, target in enumerate((0, 4)):
                assert_same(found[k], ablated_one_by_one(model, image, layer, target))


@pytest.mark.parametrize("family", FAMILIES)
def test_ablationcams_shortcut_changes_nothing(family: str) -> None:
    model, layers = prepared(family)
    on_every_path = [layer for layer in layers if layer.on_every_path]
    detours = [replace(layer, on_every_path=False) for layer in on_every_path]
    inputs, targets = images(2), [Targets((0, 4))] * 2
    short = explain(EagerNetwork(model), inputs, targets, on_every_path, ["ablationcam"], SIGNED)
    long = explain(EagerNetwork(model), inputs, targets, detours, ["ablationcam"], SIGNED)
    for one, other in zip(short, long, strict=True):
        for i in range(len(on_every_path)):
            assert_same(nested(one)[i][0], nested(other)[i][0])


def test_families_have_layers_on_every_path_and_on_branches() -> None:
    layers = [layer for family in FAMILIES for layer in prepared(family)[1]]
    assert {layer.on_every_path for layer in layers} == {True, False}
    assert {layer.layout.kind for layer in layers if layer.layout} == {"nchw", "nhwc", "tokens"}


# Identities


def test_before_global_pooling_and_a_linear_head_four_methods_are_cam() -> None:
    """The gradient is then the same all over a channel: the weights of the head, divided by the number of places."""
    model, inputs = frozen(Plain()), images()
    layers = layers_of(model, "second")
    methods = ["gradcam", "hirescam", "xgradcam"]
    answers = explain(EagerNetwork(model), inputs, [Targets(tuple(range(5)))] * 4, layers, methods, SIGNED)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    activations = model.get_submodule("second")(model.get_submodule("first")(inputs))  # (4, 6, 8, 8)
    cams = torch.einsum("tc,nchw->nthw", head.weight, activations) / 64
    for answer, cam in zip(answers, cams, strict=True):
        for found in nested(answer)[0]:
            assert_same(found, cam, 1e-5)


@pytest.mark.parametrize(("family", "layer"), [("plain", "second"), ("residual", "block")])
def test_hirescam_sums_up_to_the_logit_where_the_head_is_linear(family: str, layer: str) -> None:
    model = frozen(FAMILIES[family][0]())
    layers = layers_of(model, layer)
    head = model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    for answer in explain(EagerNetwork(model), images(), [Targets(tuple(range(5)))] * 4, layers, ["hirescam"], SIGNED):
        torch.testing.assert_close(nested(answer)[0][0].sum((1, 2)), answer.logits - head.bias, rtol=1e-4, atol=1e-4)


def test_hirescam_sees_nothing_where_only_a_layer_norm_reads() -> None:
    """Scaling a token changes nothing behind a LayerNorm, so g A sums to zero over every token's channels (Euler).

    What is left are rounding errors, which must not be drawn as if they were evidence.
    """
    model, layers = prepared("tokens")
    methods = ["hirescam", "gradcam_elementwise"]
    for answer in explain(EagerNetwork(model), images(2), [Targets((0, 1))] * 2, layers, methods, SIGNED):
        (nothing, terms), (something, _) = nested(answer)  # of "patches" and of the norm behind it
        assert not nothing.any()
        assert float(something.abs().max()) > 0.01 * float(terms.max())


def test_shapleycam_is_gradcam_where_the_score_is_piecewise_linear() -> None:
    model, layers = prepared("plain")
    targets = [Targets((0, 1))] * 2
    for answer in explain(EagerNetwork(model), images(2), targets, layers, ["shapleycam", "gradcam"], SIGNED):
        for found, expected in nested(answer):
            assert_same(found, expected)


class Gated(nn.Module):
    """Squeeze and excitation, as in MobileNetV3: torch has no second derivative of its hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 4, 4)
        self.squeeze, self.excite = nn.Linear(4, 4), nn.Hardsigmoid()
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        logits: Tensor = self.head((x * self.excite(self.squeeze(x.mean((2, 3))))[:, :, None, None]).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (FAMILIES["channels_last"][0], "norm"),
        (FAMILIES["tokens"][0], "norm1"),
        (FAMILIES["vit"][0], "encoder.layers.encoder_layer_1.ln_1"),
        (Gated, "conv"),
    ],
)
def test_shapleycams_curvature_is_that_of_finite_differences(build: Callable[[], nn.Module], layer: str) -> None:
    """H A is how fast the gradient changes along A; measured in float64, on networks with a curved score."""
    model = frozen(build()).double()
    inputs = images(1).double()
    row = layers_of(frozen(build()), layer)[0]

    def at(scale: float | None) -> tuple[Tensor, Tensor]:
        """Activations, and their gradients where they are ``scale`` times what they are."""
        kept: list[Tensor] = []

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            leaf = (output.detach() * (scale or 1.0)).requires_grad_()
            kept.append(leaf)
            return leaf

        handle = model.get_submodule(row.call.module).register_forward_hook(hook)
        try:
            score = model(inputs)[0, 2]
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(score, kept)
        return row.to_nchw(kept[0].detach()), row.to_nchw(gradient)

    step = 1e-4
    activations, gradient = at(None)
    curvature = (at(1 + step)[1] - at(1 - step)[1]) / (2 * step)
    weights = (gradient - curvature / 2).mean((2, 3))
    expected = torch.einsum("nc,nchw->nhw", weights, activations)[0].float()
    (answer,) = explain(EagerNetwork(model), inputs, [Targets((2,))], [row], ["shapleycam", "gradcam"], SIGNED)
    assert_same(nested(answer)[0][0][0], expected)
    plain = nested(answer)[0][1][0]
    assert float((plain - expected).abs().max()) > 0.01 * float(expected.abs().max())


# Half precision

# The last layer that tests explain, where rounding has had the least to work on.
_LAST = {family: names[-1] for family, (_, names) in FAMILIES.items()}


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_models_get_float32_maps(family: str, method: str, dtype: torch.dtype) -> None:
    exact, inputs = prepared(family)[0], images(3)
    layers = layers_of(exact, _LAST[family])
    half = frozen(FAMILIES[family][0]()).to(dtype)
    targets = [Targets((1,))] * 3
    expected = explain(EagerNetwork(exact), inputs, targets, layers, [method], SIGNED)
    found = explain(EagerNetwork(half), inputs.to(dtype), targets, layers, [method], SIGNED)
    for one, other in zip(found, expected, strict=True):
        assert nested(one)[0][0].dtype == one.logits.dtype == torch.float32
        a, b = nested(one)[0][0].flatten(), nested(other)[0][0].flatten()
        assert float(torch.cosine_similarity(a, b, dim=0)) > (0.999 if dtype == torch.float16 else 0.98)
        assert 0.8 < float(a.norm() / b.norm()) < 1.25


# NaN


@pytest.mark.parametrize("method", [m for family, m in allowed() if family == "plain" and METHODS[m].uses_layer])
def test_a_map_that_is_not_finite_is_an_error_that_names_the_layer(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer gives out NaN, which a later one drops, so that the logits are sound."""

    class Sick(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sick = nn.Conv2d(3, 4, 4, 4)
            self.head = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.head(self.sick(x).nan_to_num(0.0).mean((2, 3)))
            return logits

    model = frozen(Sick())
    layers = layers_of(model, "sick")
    sick = model.get_submodule("sick")
    assert isinstance(sick, nn.Conv2d)
    assert sick.bias is not None
    sick.bias[1] = float("nan")
    with pytest.raises(ModelOutputError, match=rf"The {method.replace('+', '[+]')} map at layer 'sick' is not finite"):
        explain(EagerNetwork(model), images(2), [Targets((0,))] * 2, layers, [method])
