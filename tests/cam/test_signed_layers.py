"""Numbers that do not hang on rounding errors, at layers whose activations have both signs, too.

Many formulas are derived for activations behind a ReLU. Here every method looks at layers before a ReLU, behind
normalisations, GELU and SiLU, and at branches that are concatenated. What rounding changes, as a picture's batch-mates
do, must not show in its map.
"""

from __future__ import annotations

import os
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
from service.cam.folding import folded
from service.cam.methods import METHODS
from service.cam.perturbation import noise_like
from service.cam.targets import CamOptions, Targets
from tests.cam.models import FAMILIES, Head, frozen, linear, only_layer
from tests.cam.networks import LARGE, NARROW, pictures, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from service.cam.layers import Layer
    from service.cam.network import Network

SIGNED = CamOptions(signed=True)
TARGET = 1
# Of the greatest magnitude of the map.
MOST_BY_BATCH, MOST_BY_PERTURBATION = 1e-4, 1e-3
PERTURBATION = 1e-6
# A gradient that moves by more than this share of itself has jumped: an activation has passed the kink of a ReLU, or
# another one has become the greatest of its pool. No method is steadier than the gradient that it reads.
JUMP = 1e-4
# This one reads the gradients of noisy copies, the others that of the picture.
NOISY = {"smoothgradcam++"}
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

# Half an hour on two cores: CAMSERVE_TESTS_FULL_SIZE=1 runs them, with -m slow. Without, -m slow runs narrow ones.
FULL_SIZE = bool(os.environ.get("CAMSERVE_TESTS_FULL_SIZE"))
SLOW = (*LARGE, "maxvit", "swin_v2") if FULL_SIZE else ()

# Of large networks, methods that run them for every channel are tried at layers of at most so many.
MOST_CHANNELS = 64
# Of a score that mixes all classes: a jump anywhere behind a layer shows in its gradient.
MIXED = torch.tensor([0.7, 1.0, 0.3, -0.7, -0.4])


@lru_cache(maxsize=2)
def network(name: str) -> tuple[nn.Module, int]:
    """A network, and the side of its pictures."""
    if name in TOYS:
        return frozen(TOYS[name][0]()), 32
    build, side = NARROW.get(name) or LARGE[name]
    return settled(build, side), side


@lru_cache(maxsize=2)
def signed_layers(name: str) -> tuple[Layer, ...]:
    """The layers of a network whose outputs have both signs: of toys those that tests explain, of others one of a type.

    That is the last of each.
    """
    model, side = network(name)
    inputs = pictures(side, 0)
    rows = [layer for layer in probe_layers(EagerNetwork(model), inputs) if layer.explainable and not layer.no_gradient]
    lowest: dict[object, float] = {}

    def look(call: object, output: Tensor) -> None:
        lowest[call] = float(output.min())

    EagerNetwork(model).watch(inputs, [layer.call for layer in rows], look)
    signed = [layer for layer in rows if lowest[layer.call] < 0]
    if name in TOYS:
        return tuple(layer for layer in signed if layer.name in TOYS[name][1])
    return tuple({layer.type: layer for layer in signed}.values())


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
    def of(
        cls,
        model: nn.Module,
        inputs: Tensor,
        layers: Sequence[Layer],
        methods: Sequence[str],
        served: Network | None = None,
    ) -> Found:
        asked = [Targets((TARGET,))] * len(inputs)
        answer, *_ = explain(served or EagerNetwork(model), inputs, asked, layers, methods, SIGNED)
        return cls({(raw.layer, raw.method): raw.values for raw in answer.maps}, gradients_of(model, inputs))

    def moved(self, other: Found) -> dict[tuple[str, str], float]:
        """By which share of its greatest magnitude every map has moved; left out where its gradients have jumped."""
        pairs = zip(self.gradients, other.gradients, strict=True)
        plain, *noisy = (share_moved(found, expected) > JUMP for found, expected in pairs)
        return {
            key: share_moved(self.maps[key], expected)
            for key, expected in other.maps.items()
            if not (METHODS[key[1]].needs_gradients and (any(noisy) if key[1] in NOISY else plain))
        }


def gradients_of(model: nn.Module, inputs: Tensor) -> list[Tensor]:
    """Gradients of a score of the first picture and its noisy copies with respect to them.

    They have gone through everything that the gradients at a layer have gone through.
    """
    found = []
    for view in [inputs, *(inputs + noise_like(inputs, sample) for sample in range(8))]:
        leaf = view.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((model(leaf.clone()) * MIXED).sum(), [leaf])
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


def methods_for(name: str, layers: Sequence[Layer]) -> list[str]:
    model, side = network(name)
    image = pictures(side, 0)[:1]
    allowed = [method for method, row in METHODS.items() if row.refuses(EagerNetwork(model), image) is None]
    if name in LARGE and max(layer.shape[0] for layer in layers) > MOST_CHANNELS:
        return [method for method in allowed if method not in {"scorecam", "ablationcam"}]
    return allowed


every_network = pytest.mark.parametrize(
    "name",
    [
        *TOYS,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (*(name for name in NARROW if name not in {"maxvit", "swin_v2"}), *SLOW)
        ),
    ],
)


def check(
    name: str,
    layers: Sequence[Layer],
    most: float,
    once_more: Callable[[nn.Module, Tensor, Sequence[str], int], Found],
    served: Network | None = None,
) -> None:
    """Compare what is found of a picture alone with what is found ``once_more``, at some layers of a network."""
    model, side = network(name)
    methods = methods_for(name, layers)

    def trials() -> Iterator[tuple[Found, Found]]:
        for seed in range(ATTEMPTS):
            inputs = pictures(side, seed)
            yield once_more(model, inputs, methods, seed), Found.of(model, inputs[:1], layers, methods, served)

    assert_steady(trials(), most)


@every_network
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    """As it is served: packed convolutions give the same bits in every batch, PyTorch's own ones do not."""
    layers, (model, side) = signed_layers(name), network(name)
    served = folded(model, pictures(side, 0))

    def in_a_batch(model: nn.Module, inputs: Tensor, methods: Sequence[str], _seed: int) -> Found:
        return Found.of(model, inputs, layers, methods, served)

    check(name, layers, MOST_BY_BATCH, in_a_batch, served)


@every_network
def test_a_map_moves_no_more_than_its_activations(name: str) -> None:
    for layer in signed_layers(name):

        def moved(model: nn.Module, inputs: Tensor, methods: Sequence[str], seed: int, layer: Layer = layer) -> Found:
            with perturbed(model, layer, seed):
                return Found.of(model, inputs[:1], [layer], methods)

        check(name, [layer], MOST_BY_PERTURBATION, moved)


@pytest.mark.parametrize(
    "name", ["efficientnet", *(pytest.param(each, marks=pytest.mark.slow) for each in LARGE if FULL_SIZE)]
)
def test_networks_are_such_as_training_leaves(name: str) -> None:
    """Gradients of noisy copies are not a thousand times those of the picture, and logits are not all the same."""
    model, side = network(name)
    inputs = pictures(side, 0)
    plain, *noisy = (float(gradient.abs().max()) for gradient in gradients_of(model, inputs[:1]))
    assert max(noisy) < 100 * plain
    with torch.no_grad():
        assert 1e-2 < float(model(inputs).std(0).mean()) < 1e2


def test_every_kind_of_signed_layer_is_there() -> None:
    types = {layer.type for name in (*TOYS, *NARROW) for layer in signed_layers(name)}
    assert {"Conv2d", "BatchNorm2d", "LayerNorm", "GroupNorm", "SiLU", "GELU", "Hardswish", "Linear"} <= types
    blocks = {"CNBlock", "MBConv", "InvertedResidual", "SwinTransformerBlock", "MaxVitBlock", "EncoderBlock"}
    assert blocks | {"_DenseBlock", "BottleneckTransform"} <= types


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
