"""Numbers that do not hang on rounding errors, at layers whose activations have both signs, too.

Many formulas are derived for activations behind a ReLU. Here every method looks at layers before a ReLU, behind
normalisations, GELU and SiLU, and at branches that are concatenated. What rounding changes, as a picture's batch-mates
do, must not show in its map.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.methods import METHODS
from service.cam.perturbation import noise_like
from service.cam.targets import CamOptions, Targets
from service.models.torchvision_adapter import torchvision
from tests.cam.models import FAMILIES, Head, frozen, linear, only_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.cam.layers import Layer

SIGNED = CamOptions(signed=True)
TARGET = 1
# Of the greatest magnitude of the map.
MOST_BY_BATCH, MOST_BY_PERTURBATION = 1e-4, 1e-3
PERTURBATION = 1e-6
# A gradient that moves by more than this share of itself has jumped: an activation has passed the kink of a ReLU, or
# another one has become the greatest of its pool. No method is steadier than the gradient that it reads.
JUMP = 1e-4
ATTEMPTS = 12


class Gated(nn.Module):
    """SiLU, GELU and a GroupNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.silu = nn.Conv2d(3, 8, 4, 4), nn.SiLU()
        self.middle, self.norm, self.gelu = nn.Conv2d(8, 8, 3, 1, 1), nn.GroupNorm(2, 8), nn.GELU()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gelu(self.norm(self.middle(self.silu(self.stem(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Fire(nn.Module):
    """SqueezeNet's module: two convolutions whose rectified outputs are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(3, 6, 4, 4)
        self.expand1x1, self.expand3x3 = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 3, 1, 1)
        self.classifier = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        x = torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)
        logits: Tensor = self.classifier(x).relu().mean((2, 3))
        return logits


TOYS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    **FAMILIES,
    "gated": (Gated, ("stem", "silu", "middle", "norm", "gelu")),
    "fire": (Fire, ("squeeze", "expand3x3", "expand1x1")),
}

# Real networks, at sizes that leave their last layers some cells.
LARGE = {
    "mobilenet_v3_small": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_0": 64,
    "squeezenet1_1": 64,
}
# Methods that run the network for every channel are tried at layers of at most so many.
MOST_CHANNELS = 64


def large(name: str) -> nn.Module:
    """A seeded network of torchvision's, its norms and biases as training leaves them: not all ones and zeros."""
    options: dict[str, Any] = {"image_size": LARGE[name]} if name.startswith("vit") else {}
    if name in {"googlenet", "inception_v3"}:
        options = {"aux_logits": False, "init_weights": False}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=5, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # running statistics become those of the data
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)  # torchvision starts ViT's head with zeros
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("layer_scale"):
                nn.init.uniform_(parameter, 0.1, 0.5)  # at 1e-6, as it starts, blocks do nothing
        with torch.no_grad():
            model.train()(torch.randn(4, 3, LARGE[name], LARGE[name]))
    return model.eval().requires_grad_(requires_grad=False)


def pictures(size: int, seed: int) -> Tensor:
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=8)
def signed_layers(name: str) -> tuple[nn.Module, int, tuple[Layer, ...]]:
    """A network, the size of its pictures, and its layers whose outputs have both signs.

    Of toys those that tests explain; of the others the last of every type.
    """
    model, size = (frozen(TOYS[name][0]()), 32) if name in TOYS else (large(name), LARGE[name])
    network, inputs = EagerNetwork(model), pictures(size, 0)
    rows = [layer for layer in probe_layers(network, inputs) if layer.explainable and layer.no_gradient is None]
    lowest: dict[object, float] = {}

    def look(call: object, output: Tensor) -> None:
        lowest[call] = float(output.min())

    network.watch(inputs, [layer.call for layer in rows], look)
    signed = [layer for layer in rows if lowest[layer.call] < 0]
    if name in TOYS:
        return model, size, tuple(layer for layer in signed if layer.name in TOYS[name][1])
    return model, size, tuple({layer.type: layer for layer in signed}.values())


@contextmanager
def perturbed(model: nn.Module, layer: Layer, seed: int) -> Iterator[None]:
    """Add noise to what ``layer`` gives out, the same in every pass and for every row."""
    module = model.get_submodule(layer.call.module)
    original = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        first = output[0] if isinstance(output, tuple) else output
        noise = 2 * torch.rand(first.shape[1:], generator=torch.Generator().manual_seed(seed)) - 1
        first = first + PERTURBATION * first.detach().abs().max() * noise
        return (first, *output[1:]) if isinstance(output, tuple) else first

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@dataclass(frozen=True)
class Found:
    """The first picture's raw maps by layer and method, and the gradients of its scores."""

    maps: dict[tuple[str, str], Tensor]
    gradients: list[Tensor]

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, layers: Sequence[Layer], methods: Sequence[str]) -> Found:
        asked = [Targets((TARGET,))] * len(inputs)
        answer, *_ = explain(EagerNetwork(model), inputs, asked, layers, methods, SIGNED)
        return cls({(raw.layer, raw.method): raw.values for raw in answer.maps}, gradients_of(model, inputs))

    def moved(self, other: Found) -> dict[tuple[str, str], float]:
        """By which share of its greatest magnitude every map has moved; left out where its gradients have jumped."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        jumped = any(share_moved(found, expected) > JUMP for found, expected in pairs)
        return {
            key: share_moved(self.maps[key], expected)
            for key, expected in other.maps.items()
            if not (jumped and METHODS[key[1]].needs_gradients)
        }


def gradients_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Gradients of two scores of the first picture and its noisy copies with respect to them.

    They have gone through everything that the gradients at a layer have gone through.
    """
    found = []
    for view in [inputs, *(inputs + noise_like(inputs, sample) for sample in range(8))]:
        leaf = view.clone().requires_grad_()
        logits = model(leaf.clone())
        for weights in (torch.eye(5)[TARGET], torch.tensor([1.0, -0.5, 0.3, -0.7, 0.2])):
            (gradient,) = torch.autograd.grad((logits * weights).sum(), [leaf], retain_graph=True)
            found.append(gradient[0])
    return found


def share_moved(found: Tensor, expected: Tensor) -> float:
    moved, greatest = float((found - expected).abs().max()), float(expected.abs().max())
    return moved / greatest if greatest else (torch.inf if moved else 0.0)


def assert_steady(trials: Iterator[tuple[Found, Found]], most: float) -> None:
    """Hold the moves of maps to ``most``, in as many trials as it takes to judge all of them."""
    judged: set[tuple[str, str]] = set()
    for found, expected in trials:
        moved = found.moved(expected)
        assert {key: share for key, share in moved.items() if share > most} == {}
        judged |= moved.keys()
        if judged == expected.maps.keys():
            return
    pytest.fail("the gradients jump in every trial: nothing can be said of these maps")


def methods_for(model: nn.Module, size: int, layers: Sequence[Layer]) -> list[str]:
    per_channel = {"scorecam", "ablationcam"} if max(layer.shape[0] for layer in layers) > MOST_CHANNELS else set()
    network, inputs = EagerNetwork(model), pictures(size, 0)
    return [
        name for name, row in METHODS.items() if name not in per_channel and row.refuses(network, inputs[:1]) is None
    ]


every_network = pytest.mark.parametrize(
    "name", [*TOYS, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)


def check(name: str, most: float, once_more: Callable[[nn.Module, Layer, Tensor, Sequence[str], int], Found]) -> None:
    """Compare what is found of a picture alone with what is found ``once_more``, at every signed layer of a network."""
    model, size, layers = signed_layers(name)
    for layer in layers:
        methods = methods_for(model, size, [layer])

        def trials(layer: Layer = layer, methods: Sequence[str] = methods) -> Iterator[tuple[Found, Found]]:
            for seed in range(ATTEMPTS):
                inputs = pictures(size, seed)
                yield once_more(model, layer, inputs, methods, seed), Found.of(model, inputs[:1], [layer], methods)

        assert_steady(trials(), most)


@every_network
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    check(name, MOST_BY_BATCH, lambda model, layer, inputs, methods, _seed: Found.of(model, inputs, [layer], methods))


@every_network
def test_a_map_moves_no_more_than_its_activations(name: str) -> None:
    def moved(model: nn.Module, layer: Layer, inputs: Tensor, methods: Sequence[str], seed: int) -> Found:
        with perturbed(model, layer, seed):
            return Found.of(model, inputs[:1], [layer], methods)

    check(name, MOST_BY_PERTURBATION, moved)


def test_every_kind_of_signed_layer_is_there() -> None:
    types = {layer.type for name in TOYS for layer in signed_layers(name)[2]}
    assert {"Conv2d", "BatchNorm2d", "LayerNorm", "GroupNorm", "SiLU", "GELU", "Linear"} <= types


def curved(x: Tensor) -> Tensor:
    """A score with gradients of both signs everywhere, which change with the picture and have no kink."""
    weights = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(2)) / 8
    return linear(weights)(x + 0.7 * torch.sin(3 * x))


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.uses_layer])
def test_no_activations_come_upon_a_pole(method: str) -> None:
    """Of 400 pictures with 512 positions, sums that a formula may divide by come as close to zero as they can.

    That is to -2 in Grad-CAM++, where they are multiplied by gradients.
    """
    model = Head(curved)
    inputs = torch.randn(400, 32, 4, 4, generator=torch.Generator().manual_seed(3))
    noise = 2 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(4)) - 1
    moved = inputs + PERTURBATION * inputs.abs().amax((1, 2, 3), keepdim=True) * noise
    layers = [only_layer(model, inputs[0])]
    before, after = (
        explain(EagerNetwork(model), each, [Targets((0,))] * len(each), layers, [method], SIGNED)
        for each in (inputs, moved)
    )
    shares = [
        share_moved(found.maps[0].values, expected.maps[0].values)
        for found, expected in zip(after, before, strict=True)
    ]
    assert max(shares) < MOST_BY_PERTURBATION
