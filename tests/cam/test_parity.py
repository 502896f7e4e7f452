"""The same numbers as the libraries people trust, or a formula that says what they do otherwise.

The networks are torchvision's, with seeded random weights: the arithmetic is that of trained ones. ``grad-cam`` and
``captum`` come with the extra ``parity``; ``CAMSERVE_TESTS_REQUIRE_PARITY=1`` turns the skip into a failure.
"""

from __future__ import annotations

import importlib
import os
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain, predict
from service.cam.targets import CamOptions, Targets
from service.models.torchvision_adapter import torchvision
from tests.cam.models import nested

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

SIGNED = CamOptions(signed=True)
TARGETS = (3, 7)  # of the first image, of the second


def peer(name: str) -> Any:
    """Import a peer, after torchvision, whose import may need the adapter's help; skip the test where it is absent."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if os.environ.get("CAMSERVE_TESTS_REQUIRE_PARITY"):
            pytest.fail(f"{name} cannot be imported: {error}")
        pytest.skip(f"{name} is not installed: pip install -e '.[parity]'")


@dataclass(frozen=True)
class Net:
    """A network with no in-place operation right behind its layers, which would spoil what ``grad-cam`` keeps."""

    size: tuple[int, int]
    layers: tuple[str, ...]
    reshape: Callable[[Tensor], Tensor] | None = None


def _patches(tokens: Tensor) -> Tensor:
    return tokens[:, 1:].view(len(tokens), 6, 6, -1).permute(0, 3, 1, 2)


NETS: dict[str, Net] = {
    "resnet18": Net((64, 96), ("layer3", "layer4")),
    "vgg16": Net((64, 96), ("features.22", "features.29")),
    "densenet121": Net((96, 128), ("features.denseblock3", "features.denseblock4")),
    "mobilenet_v3_small": Net((128, 160), ("features.8", "features.12")),
    "efficientnet_b0": Net((96, 128), ("features.5", "features.8")),
    "convnext_tiny": Net((96, 128), ("features.5.7", "features.7")),
    "vit_b_16": Net(
        (96, 96), ("encoder.layers.encoder_layer_10.ln_1", "encoder.layers.encoder_layer_11.ln_1"), _patches
    ),
    "swin_t": Net((128, 160), ("features.5", "features.7.0"), lambda x: x.permute(0, 3, 1, 2)),
}


@cache
def network(name: str) -> tuple[nn.Module, Tensor, dict[str, Layer]]:
    """A frozen network with ten classes, BatchNorm statistics as after training, two images, and its layers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size = {"image_size": NETS[name].size[0]} if name.startswith("vit") else {}
        model: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10, **size)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # running statistics become those of the data
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("layer_scale"):
                nn.init.uniform_(parameter, 0.1, 0.5)  # at 1e-6, as it starts, blocks do nothing
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.normal_(last.weight, std=0.1)  # torchvision starts ViT's with zeros
        nn.init.normal_(last.bias, std=0.1)
        with torch.no_grad():
            model.train()(torch.randn(4, 3, *NETS[name].size))
        images = torch.randn(2, 3, *NETS[name].size)
    model.eval().requires_grad_(requires_grad=False)
    return model, images, {layer.name: layer for layer in probe_layers(EagerNetwork(model), images)}


def ours(name: str, layer: str, methods: list[str]) -> dict[str, Tensor]:
    """Raw signed maps (2, h, w) by method."""
    model, images, layers = network(name)
    targets = [Targets((target,)) for target in TARGETS]
    answers = explain(EagerNetwork(model), images, targets, [layers[layer]], methods, SIGNED)
    return {m: torch.stack([nested(answer)[0][j][0] for answer in answers]) for j, m in enumerate(methods)}


def theirs(cls: str, name: str, layer: str) -> tuple[Tensor, Tensor]:
    """``grad-cam``'s raw maps (2, h, w) and its normalised ones (2, H, W)."""
    pgc = peer("pytorch_grad_cam")
    targets_module = peer("pytorch_grad_cam.utils.model_targets")
    model, images, _ = network(name)
    # The second derivative of fused attention is not implemented.
    kernels = sdpa_kernel(SDPBackend.MATH) if cls == "ShapleyCAM" else nullcontext()
    with kernels, getattr(pgc, cls)(model, [model.get_submodule(layer)], NETS[name].reshape) as cam:
        raw = _recorded(cam)
        targets = [targets_module.ClassifierOutputTarget(target) for target in TARGETS]
        # The parameters are frozen: without this, there would be no gradient at all.
        try:
            drawn = cam(images.clone().requires_grad_(), targets)
        finally:  # ShapleyCAM keeps views, which its own way of letting go of them cannot detach
            cam.activations_and_grads.gradients.clear()
            cam.activations_and_grads.activations.clear()
    return torch.as_tensor(raw[0]), torch.from_numpy(drawn)


def _recorded(cam: Any) -> list[Any]:
    """The list that raw maps of ``cam``, before its ReLU, will be appended to."""
    raw: list[Any] = []
    compute = cam.get_cam_image

    def record(*args: Any) -> Any:
        raw.append(compute(*args))
        return raw[-1]

    cam.get_cam_image = record
    return raw


def forward_keeping(name: str, layer: str) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the layer's output in a list, with the graph between them: plain autograd."""
    model, images, _ = network(name)
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output)
        return output.clone()

    handle = model.get_submodule(layer).register_forward_hook(keep)
    try:
        return model(images.clone().requires_grad_()), outputs
    finally:
        handle.remove()


def kept(name: str, layer: str) -> tuple[Tensor, Tensor]:
    """A and g, (2, C, h, w) float64."""
    _, _, layers = network(name)
    logits, outputs = forward_keeping(name, layer)
    (gradient,) = torch.autograd.grad(logits[range(len(TARGETS)), TARGETS].sum(), outputs)
    to_nchw = layers[layer].to_nchw
    return to_nchw(outputs[0].detach()).double(), to_nchw(gradient).double()


def weighted(weights: Tensor, activations: Tensor) -> Tensor:
    return (weights[:, :, None, None] * activations).sum(1)


def assert_equal(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Per row, relative to the greatest magnitude of the expected map."""
    assert found.shape == expected.shape
    greatest = expected.abs().amax((1, 2), keepdim=True)
    assert (greatest > 0).all()
    torch.testing.assert_close(found.double() / greatest, expected.double() / greatest, rtol=0.0, atol=tolerance)


def normalised(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """Positive part, 0-1, upsampled, 0-1 again: what ``grad-cam`` makes of raw maps, without OpenCV."""

    def stretch(maps: Tensor) -> Tensor:
        maps = maps - maps.amin((1, 2), keepdim=True)
        return maps / (maps.amax((1, 2), keepdim=True) + 1e-7)

    return stretch(functional.interpolate(stretch(raw.relu())[:, None], size, mode="bilinear")[:, 0])


every_layer = pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name, net in NETS.items() for layer in net.layers]
)

first_layers = pytest.mark.parametrize(("name", "layer"), [(name, net.layers[0]) for name, net in NETS.items()])

SAME = {
    "gradcam": "GradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "gradcam_elementwise": "GradCAMElementWise",
    "shapleycam": "ShapleyCAM",
}


# ``grad-cam``'s ShapleyCAM needs a graph of the gradient, which a linear tail has not, and derivatives that torch
# lacks. What it reshapes for its weights it does not for the map.
NO_SHAPLEY = {
    ("resnet18", "layer4"): "does not require grad",
    ("efficientnet_b0", "features.8"): "does not require grad",
    ("mobilenet_v3_small", "features.8"): "derivative for aten::hardsigmoid_backward is not implemented",
    **{(name, layer): "." for name, net in NETS.items() if net.reshape for layer in net.layers},
}


def is_signed(name: str, layer: str) -> bool:
    """Whether activations are negative there, where Grad-CAM++ and XGrad-CAM divide by what may be nothing."""
    return bool((kept(name, layer)[0] < 0).any())


@every_layer
def test_equals_grad_cam(name: str, layer: str) -> None:
    maps = ours(name, layer, list(SAME))
    for method, cls in SAME.items():
        if method == "shapleycam" and (name, layer) in NO_SHAPLEY:
            with pytest.raises((RuntimeError, ValueError), match=NO_SHAPLEY[name, layer]):
                theirs(cls, name, layer)
            continue
        if method == "xgradcam" and is_signed(name, layer):
            continue  # see below
        raw, drawn = theirs(cls, name, layer)
        assert_equal(maps[method], raw)
        # Subtracting the least value leaves rounding errors relative to a smaller greatest one.
        high, low = raw.clamp(min=0).amax((1, 2)), raw.clamp(min=0).amin((1, 2))
        stretch = float((high / (high - low)).max())
        found = normalised(maps[method], NETS[name].size)
        torch.testing.assert_close(found, drawn, rtol=0.0, atol=1e-5 * stretch)


# Layers with an in-place operation right behind them: captum goes on with a clone, as we do.
IN_PLACE = [
    ("resnet18", "layer4.1.bn2"),  # += and ReLU
    ("vgg16", "features.28"),  # ReLU
    ("densenet121", "features.norm5"),  # relu(inplace=True)
    ("mobilenet_v3_small", "features.12.1"),  # Hardswish
]


@pytest.mark.parametrize(
    ("name", "layer"),
    [*((name, layer) for name, net in NETS.items() if net.reshape is None for layer in net.layers), *IN_PLACE],
)
def test_equals_captum(name: str, layer: str) -> None:
    attr = peer("captum.attr")
    model, images, _ = network(name)
    found = attr.LayerGradCam(model, model.get_submodule(layer)).attribute(images, target=list(TARGETS))
    assert_equal(ours(name, layer, ["gradcam"])["gradcam"], found.detach()[:, 0])


@pytest.mark.parametrize(("name", "layer"), IN_PLACE[:2])
def test_grad_cam_itself_is_spoilt_by_what_is_in_place(name: str, layer: str) -> None:
    """It keeps the tensor that the next operation overwrites: why the layers above were chosen with care."""
    raw, _ = theirs("GradCAM", name, layer)
    found = ours(name, layer, ["gradcam"])["gradcam"]
    activations, gradients = kept(name, layer)
    assert_equal(found, weighted(gradients.mean((2, 3)), activations))
    assert float((raw - found).abs().max()) > 0.05 * float(found.abs().max())


# Where they differ


@every_layer
def test_gradcam_plus_plus_is_the_papers(name: str, layer: str) -> None:
    """Eq. 19, without the 1e-6 that ``grad-cam`` adds to the denominator, and with ΣA over what is positive.

    g² is far below 1e-6 wherever a gradient is spread over many places: α is then g² / 1e-6, not ½, and the map changes
    with the scale of the logits.
    """
    activations, gradients = kept(name, layer)

    def formula(total: Tensor, epsilon: float) -> Tensor:
        alpha = gradients**2 / (2 * gradients**2 + total * gradients**3 + epsilon)
        alpha = torch.where(gradients == 0, 0.0, alpha)
        return weighted((alpha * gradients.relu()).sum((2, 3)), activations)

    total, positive = (each.sum((2, 3), keepdim=True) for each in (activations, activations.relu()))
    assert torch.equal(total, positive) != is_signed(name, layer)
    assert_equal(ours(name, layer, ["gradcam++"])["gradcam++"], formula(positive, 0.0))
    assert_equal(theirs("GradCAMPlusPlus", name, layer)[0], formula(total, 1e-6), 1e-4)


@every_layer
def test_xgradcam_is_the_papers_for_each_sign(name: str, layer: str) -> None:
    """Eq. 8 for what is positive and what is negative; ``grad-cam`` divides by the sum of both, which may cancel."""
    activations, gradients = kept(name, layer)

    def formula(activations: Tensor) -> Tensor:
        weights = (gradients * activations).sum((2, 3)) / activations.sum((2, 3))
        return weighted(weights.nan_to_num(0.0), activations)

    found = ours(name, layer, ["xgradcam"])["xgradcam"]
    assert_equal(found, formula(activations.relu()) - formula((-activations).relu()))
    # Conservation: it sums up to what HiResCAM sums up to.
    products = gradients * activations
    bound = 1e-5 * products.abs().sum((1, 2, 3))
    assert ((found.double().sum((1, 2)) - products.sum((1, 2, 3))).abs() <= bound).all()


def _component(features: Tensor, *, centred: bool) -> Tensor:
    """Projection (N, h, w) on the first right singular vector, of whichever sign the SVD gives."""
    matrix = features.flatten(2).mT
    matrix = matrix - matrix.mean(1, keepdim=True) if centred else matrix
    _, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    projection: Tensor = matrix @ vh[:, :1].mT
    return projection.view(len(features), *features.shape[2:])


def _agreeing(maps: Tensor, other: Tensor) -> Tensor:
    return maps * (maps * other).sum((1, 2), keepdim=True).sign()


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        (name, NETS[name].layers[0])
        for name in ("resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16", "swin_t")
    ],
)
@pytest.mark.parametrize(("method", "cls"), [("eigencam", "EigenCAM"), ("eigengradcam", "EigenGradCAM")])
def test_eigencam_is_the_papers(name: str, layer: str, method: str, cls: str) -> None:
    """Singular vectors of the activations as they are (section III).

    ``grad-cam`` takes the mean off every channel first, which makes it PCA, and leaves the sign to LAPACK.
    """
    activations, gradients = kept(name, layer)
    features = activations if method == "eigencam" else activations * gradients
    found = ours(name, layer, [method])[method]
    assert_equal(found, _agreeing(_component(features, centred=False), found.double()), 1e-4)
    agreement = (found * features.sum(1)).sum((1, 2))
    terms = (found.abs() * features.abs().sum(1)).sum((1, 2))  # a LayerNorm's channels, untrained, sum to zero
    assert ((agreement > 0) | (agreement.abs() < 2e-4 * terms)).all()
    raw, _ = theirs(cls, name, layer)
    assert_equal(raw, _agreeing(_component(features, centred=True), raw.double()), 1e-3)


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer1"), ("mobilenet_v3_small", "features.3")])
def test_scorecam_is_the_papers(name: str, layer: str) -> None:
    """Algorithm 1: masks are scaled to 0-1 and upsampled.

    ``grad-cam`` aligns the corners of the grids, so its masks are stretched to the edges, and scales them afterwards.
    """
    model, images, _ = network(name)
    activations = kept(name, layer)[0].float()

    def stretch(maps: Tensor) -> Tensor:
        low = maps.amin((2, 3), keepdim=True)
        return (maps - low) / (maps.amax((2, 3), keepdim=True) - low + 1e-8)

    def formula(masks: Tensor) -> Tensor:
        scores = [
            predict(EagerNetwork(model), image * mask[:, None])[:, target].double()
            for image, mask, target in zip(images, masks, TARGETS, strict=True)
        ]
        return weighted(torch.stack(scores).softmax(1), activations.double())

    size = NETS[name].size
    paper = functional.interpolate(stretch(activations), size, mode="bilinear", align_corners=False)
    aligned = stretch(functional.interpolate(activations, size, mode="bilinear", align_corners=True))
    assert_equal(ours(name, layer, ["scorecam"])["scorecam"], formula(paper))
    assert_equal(theirs("ScoreCAM", name, layer)[0], formula(aligned))


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "layer1"), ("mobilenet_v3_small", "features.3")])
def test_ablationcam_is_the_papers(name: str, layer: str) -> None:
    """Eq. 3: a channel is set to zero.

    ``grad-cam`` does so only where the activations' minimum is zero; elsewhere it takes 1e7 off the minimum, which the
    last channel it ablated in the same batch of 32 has made 1e7 lower already. It divides by the score, so that what
    pulls a negative score up counts against the class.
    """
    model, images, _ = network(name)
    activations = kept(name, layer)[0].float()
    before = torch.stack([predict(EagerNetwork(model), images)[n, target] for n, target in enumerate(TARGETS)]).double()

    def drops(values: Callable[[Tensor], Tensor]) -> Tensor:
        """What each score loses, (2, C), if channel c of activations (C, h, w) is set to the c-th of ``values``."""
        return torch.stack([before[n] - without(n, values(activations[n])) for n in range(2)])

    def without(row: int, values: Tensor) -> Tensor:
        every = torch.arange(len(values))

        def replace(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            changed = output.clone()
            changed[every, every] = values[:, None, None]
            return changed

        handle = model.get_submodule(layer).register_forward_hook(replace)
        try:
            return predict(EagerNetwork(model), images[row].expand(len(values), -1, -1, -1))[:, TARGETS[row]].double()
        finally:
            handle.remove()

    def theirs_instead(maps: Tensor) -> Tensor:
        low = maps.min()
        return torch.zeros(len(maps)) if low == 0 else low - 1e7 * (torch.arange(len(maps)) % 32 + 1)

    expected = weighted(drops(lambda maps: torch.zeros(len(maps))) / before.abs()[:, None], activations.double())
    assert_equal(ours(name, layer, ["ablationcam"])["ablationcam"], expected, 1e-4)
    their_expected = weighted(drops(theirs_instead) / before[:, None], activations.double())
    assert_equal(theirs("AblationCAM", name, layer)[0], their_expected, 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_fullgrad_is_the_papers(name: str) -> None:
    """Eq. 5: ψ scales a layer's evidence to 0-1 for the image as a whole.

    ``grad-cam`` scales every channel by itself, so that channels of no weight count as much as those of the greatest.
    """
    model, images, _ = network(name)
    inputs = images.clone().requires_grad_()
    biases: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        if isinstance(module, nn.BatchNorm2d):
            # What BatchNorm makes of zeros is its bias.
            biases.append(module(torch.zeros(1, module.num_features, 1, 1)))
        else:
            assert isinstance(module.bias, Tensor)
            biases.append(module.bias[None, :, None, None])
        outputs.append(output)
        return output.clone()

    biased = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) and module.bias is not None
    ]
    handles = [_hook_once(module, keep) for module in biased]
    logits = model(inputs)
    for handle in handles:
        handle.remove()
    assert len(outputs) == len(biased)
    score = sum(logits[n, target] for n, target in enumerate(TARGETS))
    input_gradient, *gradients = torch.autograd.grad(score, [inputs, *outputs])
    evidence = [inputs.detach() * input_gradient, *(b * g for b, g in zip(biases, gradients, strict=True))]

    def formula(over: tuple[int, ...]) -> Tensor:
        total = torch.zeros(2, *NETS[name].size, dtype=torch.float64)
        for each in evidence:
            scaled = each.double().abs()
            scaled = scaled - scaled.amin(over, keepdim=True)
            scaled = scaled / (scaled.amax(over, keepdim=True) + (1e-7 if over == (2, 3) else 1e-12))
            total += functional.interpolate(scaled, NETS[name].size, mode="bilinear").sum(1)
        return total

    layer = NETS[name].layers[-1]
    assert_equal(ours(name, layer, ["fullgrad"])["fullgrad"], formula((1, 2, 3)), 1e-4)
    pgc, targets_module = peer("pytorch_grad_cam"), peer("pytorch_grad_cam.utils.model_targets")
    with pgc.FullGrad(model, []) as cam:
        found = cam(images, [targets_module.ClassifierOutputTarget(target) for target in TARGETS])
    expected = formula((2, 3))
    expected = expected - expected.amin((1, 2), keepdim=True)
    assert_equal(torch.from_numpy(found), expected / expected.amax((1, 2), keepdim=True), 1e-4)


def _hook_once(module: nn.Module, keep: Callable[[nn.Module, object, Tensor], Tensor]) -> Any:
    """Register a forward hook that may call its module."""
    busy = False

    def hook(called: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
        nonlocal busy
        if busy:
            return None
        busy = True
        try:
            return keep(called, inputs, output)
        finally:
            busy = False

    return module.register_forward_hook(hook)


@first_layers
def test_finercam_is_the_papers(name: str, layer: str) -> None:
    """Eq. 5: the class's logit minus 0.6 times the mean of those of the three classes nearest to it.

    ``grad-cam`` takes the same three, at strength 1, weighted by their probabilities, and lets the weights have
    gradients of their own.
    """
    model, images, layers = network(name)
    logits, outputs = forward_keeping(name, layer)
    winners = logits.argmax(1).tolist()
    to_nchw = layers[layer].to_nchw
    activations = to_nchw(outputs[0].detach()).double()

    def formula(score: Callable[[Tensor, int, list[int]], Tensor]) -> Tensor:
        scores = []
        for row, winner in zip(logits, winners, strict=True):
            values = row.tolist()
            others = sorted(set(range(10)) - {winner}, key=lambda c: abs(values[c] - values[winner]))[:3]
            scores.append(score(row, winner, others))
        (gradient,) = torch.autograd.grad(torch.stack(scores).sum(), outputs, retain_graph=True)
        return weighted(to_nchw(gradient).double().mean((2, 3)), activations)

    def peers(row: Tensor, winner: int, others: list[int]) -> Tensor:
        shares = row.softmax(0)[others]
        return (shares * (row[winner] - row[others])).sum() / (shares.sum() + 1e-9)

    answers = explain(
        EagerNetwork(model), images, [Targets((winner,)) for winner in winners], [layers[layer]], ["finercam"], SIGNED
    )
    found = torch.stack([nested(answer)[0][0][0] for answer in answers])
    assert_equal(found, formula(lambda row, winner, others: row[winner] - 0.6 * row[others].mean()))

    pgc = peer("pytorch_grad_cam")
    with pgc.FinerCAM(model, [model.get_submodule(layer)], NETS[name].reshape) as cam:
        raw = _recorded(cam.base_cam)
        cam(images.clone().requires_grad_())
    assert_equal(torch.as_tensor(raw[0]), formula(peers), 1e-4)
