"""The passes that are counted beforehand are those that are made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from torch import Tensor, nn

from service.cam import work
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.layers import Layer, LayerCall, Layout
from service.cam.methods import METHODS
from service.cam.pace import Pace
from service.cam.targets import PLAIN, CamOptions, Targets
from service.cam.work import Passes, passes_together
from tests.cam.models import frozen, images, layers_of, vit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Curved(nn.Module):
    """A network whose score has second derivatives, with a branch that not everything goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 4, 4)
        self.middle, self.branch, self.last = nn.Conv2d(4, 6, 3, 1, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.first(x).tanh())
        x = self.last((x + self.branch(x)).tanh())
        logits: Tensor = self.head(x.tanh().mean((2, 3)))
        return logits


@dataclass(frozen=True)
class Kind:
    """A network, the modules that every whole pass begins and ends with, and target layers between them."""

    build: Callable[[], nn.Module]
    first: str
    last: str
    layers: tuple[str, ...]


KINDS = {
    "curved": Kind(Curved, "first", "last", ("middle", "branch")),
    "vit": Kind(
        vit,
        "conv_proj",
        "encoder.layers.encoder_layer_1.mlp",
        ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"),
    ),
}
# Attention that is not there is refused, as everywhere.
ALLOWED = [(kind, name) for kind in KINDS for name, row in METHODS.items() if kind == "vit" or row.refusal is None]
IMAGES = 2


def made(kind: Kind, methods: Sequence[str], layers: Sequence[Layer], targets: int, options: CamOptions) -> Passes:
    """Count, by hooks, the passes per image that ``explain`` makes."""
    model = frozen(kind.build())
    network = EagerNetwork(model)
    for method in methods:  # as where it is loaded
        METHODS[method].refuses(network, images(1))
    begun = ended = backward = 0

    def count_backward(gradient: Tensor) -> None:
        nonlocal backward
        backward += len(gradient)

    def begin(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal begun
        begun += len(output)

    def end(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal ended
        ended += len(output)
        if output.requires_grad:
            output.register_hook(count_backward)  # type: ignore[no-untyped-call]

    model.get_submodule(kind.first).register_forward_hook(begin)
    model.get_submodule(kind.last).register_forward_hook(end)
    asked = [Targets(tuple(range(targets)))] * IMAGES
    explain(network, images(IMAGES), asked, layers, methods, options)
    assert begun % IMAGES == ended % IMAGES == backward % IMAGES == 0
    return Passes(begun // IMAGES, (ended - begun) // IMAGES, backward // IMAGES)


AMOUNTS = [
    pytest.param(1, 1, PLAIN, id="least"),
    pytest.param(3, 1, PLAIN, id="targets"),
    pytest.param(2, 2, PLAIN, id="layers"),
    pytest.param(2, 2, CamOptions(smooth=2, flip=True), id="views"),
    pytest.param(1, 2, CamOptions(fuse="mean", signed=True), id="fused"),
]


@pytest.fixture(autouse=True)
def as_fast_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are as large as memory allows, however long they take: every further one begins anew."""
    monkeypatch.setattr(Pace, "rows", lambda _self, _kind: 10**9)


@pytest.mark.parametrize(("targets", "layers", "options"), AMOUNTS)
@pytest.mark.parametrize(("name", "method"), ALLOWED)
def test_the_count_is_what_is_made(name: str, method: str, targets: int, layers: int, options: CamOptions) -> None:
    kind = KINDS[name]
    rows = layers_of(frozen(kind.build()), *kind.layers[:layers])
    counted = passes_together([method], rows, targets=targets, options=options)
    assert counted == made(kind, [method], rows, targets, options)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("options", [PLAIN, CamOptions(smooth=1)])
def test_methods_together_share_what_they_can(name: str, options: CamOptions) -> None:
    kind = KINDS[name]
    methods = [method for allowed, method in ALLOWED if allowed == name]
    rows = layers_of(frozen(kind.build()), *kind.layers)
    asked = [*methods, methods[0]], [*rows, rows[0]]  # nothing is computed twice
    counted = passes_together(*asked, targets=2, options=options)
    assert counted == made(kind, *asked, 2, options)
    alone = [passes_together([method], rows, targets=2, options=options) for method in methods]
    assert counted.forward < sum(each.forward for each in alone)
    assert counted.backward < sum(each.backward for each in alone)


@pytest.mark.parametrize("elements", [1, 2 * 6 * 64])
@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_chunks_begin_anew(method: str, elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_CHUNK_ELEMENTS", elements)
    rows = layers_of(frozen(Curved()), "middle")
    assert passes_together([method], rows) == made(KINDS["curved"], [method], rows, 1, PLAIN)


DEEP = Layer(
    "layer4",
    LayerCall("layer4"),
    "Sequential",
    "block",
    (2048, 7, 7),
    Layout("nchw", 7, 7),
    stride=32,
    order=0,
    on_every_path=True,
    explainable=True,
    note=None,
)


def test_the_known_amounts() -> None:
    """For the default layer of a ResNet-50, 2048 channels of 7 × 7 cells."""
    assert passes_together(["gradcam"], [DEEP], targets=3) == Passes(forward=1, backward=3)
    assert passes_together(["eigencam"], [DEEP], targets=3) == Passes(forward=1)
    assert passes_together(["scorecam"], [DEEP]) == Passes(forward=2050)
    chunks = -(-2048 // (32 * 2**20 // (2048 * 49)))
    assert passes_together(["ablationcam"], [DEEP]) == Passes(forward=3 + chunks, tail=2048)
    assert passes_together(["ablationcam"], [replace(DEEP, on_every_path=False)]) == Passes(forward=2051 + chunks)
    assert passes_together(["scorecam"], [DEEP], targets=3) == Passes(forward=2050), "all classes' logits are there"
    assert passes_together(["smoothgradcam++"], [DEEP], targets=2) == Passes(forward=9, backward=16)
    together = 32 * 2**20 // (6 * 2048 * 49)
    assert passes_together(["smoothgradcam++"], [DEEP], targets=together + 1) == Passes(17, backward=8 * (together + 1))
