"""What is done with raw maps: sign, views, fusion, and whether their score has a gradient at all."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.fusion import fuse
from service.cam.methods import METHODS
from service.cam.pace import Pace
from service.cam.perturbation import noise_like
from service.cam.targets import PLAIN, CamOptions, Targets, Top
from service.placement import AxisPlacement, Placement
from tests.cam.models import (
    Head,
    frozen,
    images,
    layers_of,
    linear,
    nested,
    only_layer,
    prepared,
    reference_gradcam,
)

SIGNED = CamOptions(signed=True)


# Fusion


def grid(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # Divided by their greatest magnitudes, 4 and 2, the maps are (½, -1, ¼, 0) and (1, ½, -½, ½).
        ("max", [1.0, -1.0, -0.5, 0.5]),
        ("mean", [0.75, -0.25, -0.125, 0.25]),
        ("product", [math.sqrt(0.5), 0.0, 0.0, 0.0]),
    ],
)
def test_fusion_by_hand(how: str, expected: list[float]) -> None:
    maps = [grid(2, -4, 1, 0), grid(2, 1, -1, 1)]
    torch.testing.assert_close(fuse(maps, how), grid(*expected))  # type: ignore[arg-type]


def test_a_product_of_negatives_is_negative() -> None:
    # Evidence against the class in all layers is evidence against it, for even and odd numbers of layers.
    assert fuse([grid(-1, 1), grid(-4, 4)], "product").tolist() == [[[[-1.0, 1.0]]]]
    found = fuse([grid(-1, 8), grid(-1, 1), grid(-8, 8)], "product")
    torch.testing.assert_close(found, grid(-((1 / 8 * 1 * 1) ** (1 / 3)), 1.0))


def test_refinecams_example() -> None:
    # torchcam's: (0, 1, 2, 3) / 3 and (3, 2, 1, 0) / 3; the product of the two, of which we take the root.
    found = fuse([grid(0, 1, 2, 3), grid(3, 2, 1, 0)], "product")
    torch.testing.assert_close(found, grid(0, math.sqrt(2) / 3, math.sqrt(2) / 3, 0))


@pytest.mark.parametrize(("how", "expected"), [("max", [0.5, -1.0]), ("mean", [0.25, -0.5]), ("product", [0.0, 0.0])])
def test_a_map_of_zeros_stays_zero_when_fused(how: str, expected: list[float]) -> None:
    assert fuse([grid(0, 0), grid(1, -2)], how).flatten().tolist() == expected  # type: ignore[arg-type]
    assert not fuse([grid(0, 0), grid(0, 0)], how).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["max", "mean", "product"])
def test_every_row_and_target_is_fused_by_itself(how: str) -> None:
    generator = torch.Generator().manual_seed(5)
    maps = [torch.randn(3, 2, 4, 4, generator=generator), torch.randn(3, 2, 4, 4, generator=generator)]
    together = fuse(maps, how)  # type: ignore[arg-type]
    for n in range(3):
        for t in range(2):
            alone = fuse([each[n : n + 1, t : t + 1] for each in maps], how)  # type: ignore[arg-type]
            assert torch.equal(together[n, t], alone[0, 0])


def test_fusion_brings_maps_to_the_finest_grid() -> None:
    # 0 1 across four places: 0 ¼ ¾ 1; the finer map is 1 there once scaled.
    found = fuse([grid(0, 3), grid(1, 1, 1, 1)], "mean")
    torch.testing.assert_close(found, grid(0.5, 0.625, 0.875, 1))


@pytest.mark.parametrize("signed", [True, False])
def test_fused_layers_are_their_raw_maps_fused(signed: bool) -> None:
    model, layers = prepared("plain")
    inputs = images()
    targets = [Targets((0, 3))] * 4
    methods, options = ["gradcam", "hirescam"], CamOptions(signed=signed)
    apart = explain(EagerNetwork(model), inputs, targets, layers, methods, options)
    fused = explain(EagerNetwork(model), inputs, targets, layers, methods, replace(options, fuse="max"))
    for one, other in zip(fused, apart, strict=True):
        assert {raw.layer for raw in one.maps} == {"+".join(layer.name for layer in layers)}
        for j in range(2):
            expected = fuse([by_method[j][None] for by_method in nested(other)], "max")[0]
            torch.testing.assert_close(nested(one)[0][j], expected)


# Variants


@pytest.mark.parametrize("method", METHODS)
def test_unsigned_maps_are_the_positive_part_of_signed_ones(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many rows make a step follows the clock, and rounding follows how many they are.
    monkeypatch.setattr(Pace, "rows", lambda _pace, _kind: 8)
    family = "vit" if METHODS[method].refusal else "plain"
    model, layers = prepared(family)
    inputs = images()
    targets = [Targets((0, 1, 2))] * 4
    unsigned = explain(EagerNetwork(model), inputs, targets, layers, [method])
    signed = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    negatives = 0
    for one, other in zip(unsigned, signed, strict=True):
        for (found,), (expected,) in zip(nested(one), nested(other), strict=True):
            assert torch.equal(found, expected.relu())
            negatives += int((expected < 0).sum())
    assert (negatives > 0) == METHODS[method].signed


class Pointwise(nn.Module):
    """Looks at every pixel by itself, so that the features of a mirror image are the mirror image of the features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x).tanh().mean((2, 3)))
        return logits


FAST = [name for name, method in METHODS.items() if not method.refusal]


@pytest.mark.parametrize("method", [name for name in FAST if name != "smoothgradcam++"])  # its noise is not symmetric
def test_flipping_changes_nothing_for_a_symmetric_model(method: str) -> None:
    model, inputs = frozen(Pointwise()), images(2)[..., :8, :8]
    layers = [layer for layer in probe_layers(EagerNetwork(model), inputs) if layer.name == "layer"]
    plain = explain(EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, [method], SIGNED)
    flipped = explain(
        EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, [method], CamOptions(signed=True, flip=True)
    )
    for one, other in zip(flipped, plain, strict=True):
        torch.testing.assert_close(nested(one)[0][0], nested(other)[0][0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "scorecam", "fullgrad"])
def test_flipping_averages_with_the_mirror_image(method: str) -> None:
    model, layers = prepared("plain")
    inputs, targets = images(2), [Targets((0, 1))] * 2
    flipped = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, flip=True))
    ones = explain(EagerNetwork(model), inputs, targets, layers, [method], SIGNED)
    others = explain(EagerNetwork(model), inputs.flip(3), targets, layers, [method], SIGNED)
    for found, one, other in zip(flipped, ones, others, strict=True):
        for i in range(len(layers)):
            expected = (nested(one)[i][0] + nested(other)[i][0].flip(2)) / 2
            torch.testing.assert_close(nested(found)[i][0], expected)
            assert not torch.allclose(expected, nested(one)[i][0])


def test_every_view_is_told_before_it_is_computed() -> None:
    model, layers = prepared("plain")
    told: list[tuple[int, int]] = []
    explain(
        EagerNetwork(model),
        images(1),
        [Targets((0,))],
        layers[:1],
        ["gradcam"],
        CamOptions(smooth=3, flip=True),
        lambda done, total: told.append((done, total)),
    )
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert {view / 6 for view in range(6)} <= set(shares)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "ablationcam", "activation"])
def test_smoothing_averages_over_noisy_images_and_is_repeatable(method: str) -> None:
    model, layers = prepared("residual")
    inputs, targets = images(2), [Targets((0, 1))] * 2
    smooth = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, smooth=3))
    again = explain(EagerNetwork(model), inputs, targets, layers, [method], CamOptions(signed=True, smooth=3))
    views = [
        explain(EagerNetwork(model), inputs + noise_like(inputs, sample), targets, layers, [method], SIGNED)
        for sample in range(3)
    ]
    for n in range(2):
        for i in range(len(layers)):
            found = nested(smooth[n])[i][0]
            expected = torch.stack([nested(view[n])[i][0] for view in views]).mean(0)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            # The clock decides how many channels are ablated at once, which shows in the last bits.
            torch.testing.assert_close(nested(again[n])[i][0], found, rtol=1e-5, atol=1e-5)


def test_smoothing_and_flipping_average_over_the_four_views() -> None:
    """Two noisy copies and their mirror images, each explained by a textbook Grad-CAM."""
    model, layers = prepared("plain")
    inputs = images(2)
    spans = inputs.amax((1, 2, 3), keepdim=True) - inputs.amin((1, 2, 3), keepdim=True)
    noises = [torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(sample)) for sample in (0, 1)]
    copies = [inputs + 0.15 * spans * noise for noise in noises]
    answers = explain(
        EagerNetwork(model), inputs, [Targets((0, 1))] * 2, layers, ["gradcam"], CamOptions(smooth=2, flip=True)
    )
    by_name = {layer.name: layer for layer in layers}
    for n, answer in enumerate(answers):
        for raw in answer.maps:
            layer = by_name[raw.layer]
            views = [reference_gradcam(model, copy[n], layer, raw.target, signed=True) for copy in copies]
            views += [
                reference_gradcam(model, copy[n].flip(2), layer, raw.target, signed=True).flip(1) for copy in copies
            ]
            torch.testing.assert_close(raw.values, torch.stack(views).mean(0).relu(), rtol=1e-4, atol=1e-5)


def test_noise_is_as_strong_as_the_image_varies_and_the_same_for_all_rows() -> None:
    inputs = images(3) * torch.tensor([1.0, 10.0, 0.1]).view(3, 1, 1, 1)
    noise = noise_like(inputs, 0)
    spans = inputs.amax((1, 2, 3)) - inputs.amin((1, 2, 3))
    torch.testing.assert_close(noise.std((1, 2, 3)), 0.15 * spans, rtol=0.05, atol=0.0)
    assert torch.equal(noise_like(inputs[1:2], 0), noise[1:2])
    assert not torch.allclose(noise_like(inputs, 1), noise)


@pytest.mark.parametrize(
    "options", [CamOptions(smooth=4), CamOptions(flip=True), CamOptions(smooth=4, flip=True), CamOptions(smooth=1)]
)
def test_predicted_is_what_the_clean_image_is_predicted_to_be(options: CamOptions) -> None:
    # Half of the mirror image is weighted otherwise, and the margin is small: views would be classified otherwise.
    weights = torch.linspace(-1, 1, 8).expand(3, 8, 8)
    model = Head(linear(weights))
    inputs = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(6))
    clean = predict(EagerNetwork(model), inputs)
    noisy = predict(EagerNetwork(model), inputs + noise_like(inputs, 0)).argmax(1)
    assert (noisy != clean.argmax(1)).any()
    assert (predict(EagerNetwork(model), inputs.flip(3)).argmax(1) != clean.argmax(1)).any()
    layer = only_layer(model, inputs[0])
    answers = explain(EagerNetwork(model), inputs, [Targets((Top(1),))] * 32, [layer], ["gradcam"], options)
    assert [[raw.target for raw in answer.maps] for answer in answers] == [
        [index] for index in clean.argmax(1).tolist()
    ]
    torch.testing.assert_close(torch.stack([answer.logits for answer in answers]), clean)


def test_finercam_compares_with_the_classes_that_are_near_for_the_clean_image() -> None:
    model, layers = prepared("plain")
    inputs = images(2)
    targets = [Targets((0,))] * 2
    smooth = explain(EagerNetwork(model), inputs, targets, layers, ["finercam"], CamOptions(signed=True, smooth=2))
    clean = predict(EagerNetwork(model), inputs)
    for n, answer in enumerate(smooth):
        others = sorted(range(1, 5), key=lambda c: abs(float(clean[n, c] - clean[n, 0])))[:3]
        total = torch.zeros_like(nested(answer)[0][0])
        for sample in range(2):
            view = (inputs + noise_like(inputs, sample))[[n]]
            (each,) = explain(EagerNetwork(model), view, [Targets((0, *others))], layers[:1], ["gradcam"], SIGNED)
            maps = nested(each)[0][0]
            total += (maps[:1] - 0.2 * maps[1:].sum(0)) / 2  # Grad-CAM is linear in the score
        torch.testing.assert_close(nested(answer)[0][0], total, rtol=1e-4, atol=1e-6)


def test_against_takes_the_place_of_the_nearest_classes() -> None:
    model, layers = prepared("plain")
    targets = [Targets((0,), against=2)] * 2
    finer, plain = (
        explain(EagerNetwork(model), images(2), targets, layers, [method], SIGNED) for method in ("finercam", "gradcam")
    )
    for one, other in zip(finer, plain, strict=True):
        torch.testing.assert_close(nested(one)[0][0], nested(other)[0][0])


# A score that a layer has no part in


class HalfDeaf(nn.Module):
    """Class 0 depends on the layer, class 1 on the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(x).sum((1, 2, 3)), x.sum((1, 2, 3))], dim=1)


@pytest.mark.parametrize("options", [PLAIN, CamOptions(smooth=2, flip=True)])
@pytest.mark.parametrize("method", [name for name in FAST if METHODS[name].uses_layer])
def test_a_score_that_does_not_depend_on_the_layer_is_reported(method: str, options: CamOptions) -> None:
    model, inputs = frozen(HalfDeaf()), images(2)[..., :8, :8]
    layers = layers_of(frozen(HalfDeaf()), "layer")
    answers = explain(EagerNetwork(model), inputs, [Targets((0, 1)), Targets((1,))], layers, [method], options)
    told = METHODS[method].needs_gradients
    told = told and METHODS[method].score != "finer"  # its difference depends on class 0, whichever the target is
    assert [[raw.zero_gradient for raw in answer.maps] for answer in answers] == [[False, told], [told]]
    for raw in (raw for answer in answers for raw in answer.maps):
        assert not (raw.zero_gradient and raw.values.any())


def test_a_map_that_is_only_negative_has_a_gradient() -> None:
    model = Head(linear(torch.ones(3, 4, 4)))
    image = torch.rand(3, 4, 4) + 1
    (answer,) = explain(EagerNetwork(model), image[None], [Targets((0, 1))], [only_layer(model, image)], ["gradcam"])
    assert not nested(answer)[0][0][1].any()
    assert [raw.zero_gradient for raw in answer.maps] == [False, False]


@pytest.mark.parametrize("deaf_first", [True, False])
def test_a_fused_maps_gradient_is_zero_only_if_it_is_in_every_layer(deaf_first: bool) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heard, self.unheard = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            heard, unheard = self.heard(x).sum((1, 2, 3)), self.unheard(x).sum((1, 2, 3))
            return torch.stack([heard, unheard, x.sum((1, 2, 3))], dim=1)

    model, inputs = frozen(Two()), images(1)[..., :8, :8]
    by_name = {layer.name: layer for layer in probe_layers(EagerNetwork(model), inputs.repeat(2, 1, 1, 1))}
    layers = [by_name["unheard"], by_name["heard"]]
    layers = layers if deaf_first else layers[::-1]
    (answer,) = explain(
        EagerNetwork(model), inputs, [Targets((0, 2))], layers, ["gradcam"], CamOptions(signed=True, fuse="max")
    )
    assert [raw.zero_gradient for raw in answer.maps] == [False, True]
    assert nested(answer)[0][0][0].any()
    assert not nested(answer)[0][0][1].any()


@pytest.mark.parametrize(
    ("image", "expected", "zero_gradient"),
    [
        # The logit is relu(left - 1). Left 0: no gradient. In the mirror image left is 2 and has gradient 1: weight ½,
        # map 1 0, brought back 0 1; the mean of both views is 0 ½.
        ([0.0, 2.0], [0.0, 0.5], False),
        ([2.0, 0.0], [0.5, 0.0], False),  # the other way round
        ([0.0, 0.5], [0.0, 0.0], True),  # no gradient in either view
    ],
)
def test_a_gradient_is_zero_only_if_it_is_in_every_view(
    image: list[float], expected: list[float], zero_gradient: bool
) -> None:
    def head(x: Tensor) -> Tensor:
        score = (x[:, 0, 0, 0] - 1).relu()
        return torch.stack([score, -score], dim=1)

    model, inputs = Head(head), torch.tensor(image).view(1, 1, 1, 2)
    layers = [only_layer(model, inputs[0])]
    (answer,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"], CamOptions(flip=True))
    (raw,) = answer.maps
    assert raw.values.tolist() == [expected]
    assert raw.zero_gradient is zero_gradient


def test_a_map_that_a_view_speaks_against_has_a_gradient() -> None:
    """The first view has no gradient, the other one a negative one: the map is empty, but the gradient is not zero."""

    def head(x: Tensor) -> Tensor:
        score = -(x[:, 0, 0, 0] - 1).relu()
        return torch.stack([score, -score], dim=1)

    model, inputs = Head(head), torch.tensor([[[[0.0, 2.0]]]])
    layers = [only_layer(model, inputs[0])]
    (answer,) = explain(EagerNetwork(model), inputs, [Targets((0,))], layers, ["gradcam"], CamOptions(flip=True))
    (raw,) = answer.maps
    assert not raw.values.any()
    assert not raw.zero_gradient


# The sequence of maps


def test_maps_come_by_layer_then_method_then_target() -> None:
    model, layers = prepared("plain")
    targets = [Targets((3, Top(1))), Targets((2,))]
    first, second = explain(EagerNetwork(model), images(2), targets, layers[:2], ["gradcam", "activation"])
    winner = int(first.logits.argmax())
    order = [(layer.name, method) for layer in layers[:2] for method in ("gradcam", "activation")]
    assert [(raw.layer, raw.method, raw.target) for raw in first.maps] == [
        (*each, target) for each in order for target in (3, winner)
    ]
    assert [(raw.layer, raw.method, raw.target) for raw in second.maps] == [(*each, 2) for each in order]


def test_maps_are_fused_where_their_cells_look() -> None:
    # Four cells look at 0, 4, 8, 12; two cells look at 0 and 8. So the fine cells see the coarse map at 0, ½, 1 and,
    # beyond its last cell, 1 of the way from its first value to its last.
    fine = Placement(AxisPlacement(0, 4), AxisPlacement(2, 4))
    coarse = Placement(AxisPlacement(0, 8), AxisPlacement(2, 4))

    found = fuse([grid(1, 1, 1, 1), grid(0, 1)], "mean", [fine, coarse])

    assert found.flatten().tolist() == [0.5, 0.75, 1.0, 1.0]
