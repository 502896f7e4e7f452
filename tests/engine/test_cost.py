"""What a request is estimated to cost, and that it is what it really costs within a factor of two."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from service.cam.arithmetic import arithmetic_of
from service.cam.catalogue import probe_layers
from service.cam.eager import EagerNetwork
from service.cam.explain import explain
from service.cam.methods import METHODS
from service.cam.targets import PLAIN, CamOptions, Targets, Top
from service.engine.amount import amount
from service.engine.cost import Cost, Work, check_cost
from service.engine.plan import plan
from service.engine.request import Request
from service.errors import RequestTooCostly
from service.imaging.decode import Header
from tests.web.application import PETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer

torch.manual_seed(0)
CONVOLUTIONS = nn.Sequential(
    nn.Conv2d(3, 12, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv2d(12, 24, 3, padding=1),
    nn.ReLU(),
    nn.Conv2d(24, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)
CONVOLUTIONS.eval().requires_grad_(False)
IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))

ASKED: dict[str, Any] = {
    "plain": {"outputs": ("heatmap",)},
    "many targets": {"outputs": ("heatmap",), "targets": ("top-3",)},
    "many outputs": {"outputs": ("heatmap", "overlay", "mask", "map", "regions")},
    "everything": {
        "outputs": ("heatmap", "overlay", "mask"),
        "targets": ("top-2",),
        "methods": ("gradcam", "scorecam"),
        "layers": ("conv1", "conv2"),
        "smooth": 5,
        "image_format": "png",
        "max_side": 4000,
    },
}


def work(images: int = 1, side: int = 2000, **asked: Any) -> Work:
    todo = plan(Request(**asked), PETS, 1000)
    return Work.of(todo, [Header(side, side, side * side)] * images)


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations by torch's own formulas, as ``FlopCounterMode`` does.

    That one tells modules apart, too, which takes most of its time.
    """

    flops: int = 0

    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        formula = flop_registry.get(func.overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        result = func(*args, **(kwargs or {}))
        self.flops += formula(*args, **(kwargs or {}), out_val=result) if formula else 0
        return result


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    """Rows of the layers of ``CONVOLUTIONS`` that can be explained, with the arithmetic that comes after each."""
    network = EagerNetwork(CONVOLUTIONS)
    rows = [layer for layer in probe_layers(network, IMAGE) if layer.explainable]
    tails = arithmetic_of(network, IMAGE, rows).tails
    return [replace(layer, tail=tails[layer.name]) for layer in rows]


def flops_of(call: Callable[[], object]) -> int:
    counter = Counted()  # type: ignore[no-untyped-call]
    with counter:
        call()
    return counter.flops


class TestAmount:
    """Against counted floating-point operations: they are what takes the time, and the same on every machine."""

    @pytest.mark.parametrize("options", [PLAIN, CamOptions(smooth=3), CamOptions(flip=True)], ids=str)
    @pytest.mark.parametrize("targets", [1, 4])
    @pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.refusal is None])
    def test_it_is_what_is_computed_within_a_factor_of_two(
        self, method: str, targets: int, options: CamOptions, layers: list[Layer]
    ) -> None:
        network, asked = EagerNetwork(CONVOLUTIONS), [Targets((Top(targets),))]
        a_pass = flops_of(lambda: CONVOLUTIONS(IMAGE))
        for layer in (layers[0], layers[3], layers[-1]):
            explained = flops_of(partial(explain, network, IMAGE, asked, [layer], [method], options))
            really = explained / a_pass
            assert 0.5 <= amount([method], [layer], targets, options) / really <= 2, layer.name

    def test_operations_are_counted_as_torch_counts_them(self, layers: list[Layer]) -> None:
        call = partial(
            explain, EagerNetwork(CONVOLUTIONS), IMAGE, [Targets((0, 1))], layers[:1], ["scorecam", "gradcam"]
        )
        with FlopCounterMode(display=False) as counter:
            call()
        assert flops_of(call) == counter.get_total_flops() > 0

    def test_methods_and_layers_share_what_they_share(self) -> None:
        layers = [PETS.layer("conv1"), PETS.layer("conv2")]
        together = amount(["gradcam", "hirescam"], layers)
        assert together < amount(["gradcam"], layers) + amount(["hirescam"], layers)
        assert together == pytest.approx(amount(["gradcam"], layers[:1]))

    def test_principal_components_count_where_the_network_is_small(self) -> None:
        layer = replace(PETS.layer("conv1"), shape=(500, 3, 3))
        assert amount(["eigencam"], [layer], flops=10**6) > amount(["eigencam"], [layer], flops=10**9)


class TestCost:
    def test_predictions_cost_a_pass_and_the_decoding(self) -> None:
        cost = Work.of(plan(Request(op="predict"), PETS, 64), [Header(10, 20, 200)] * 3).cost
        assert (cost.forward, cost.pixels) == (3, 600)

    def test_pixels_are_those_decoded_and_those_drawn(self) -> None:
        one = work(side=500, outputs=("heatmap",), max_side=100)
        assert one.cost.pixels == 500 * 500 + 100 * 100
        assert one.lowered("max_side", 50).cost.pixels == 500 * 500 + 50 * 50
        both = work(side=500, outputs=("heatmap", "overlay"), targets=("top-3",), max_side=100)
        assert both.cost.pixels == 500 * 500 + 2 * 3 * 100 * 100
        assert work(side=500, outputs=("map",)).cost.pixels == 500 * 500

    @pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
    @pytest.mark.parametrize("part", ["forward", "pixels", "bytes"])
    @pytest.mark.parametrize("share", [0.9, 0.5, 0.3])
    def test_who_follows_the_advice_is_let_in(self, asked: dict[str, Any], part: str, share: float) -> None:
        wanted = work(images=6, **asked)
        most = replace(wanted.cost, **{part: type(getattr(wanted.cost, part))(getattr(wanted.cost, part) * share)})
        with pytest.raises(RequestTooCostly) as refused:
            check_cost(wanted, most)
        factor, allowed = refused.value.details["factor"], refused.value.details["allowed"]
        assert refused.value.details["asked"] == wanted.factors[factor]
        assert f"Lower '{factor}' from" in refused.value.message
        lowered = wanted.lowered(factor, allowed)
        check_cost(lowered, most)
        assert not wanted.lowered(factor, allowed + 1).cost.within(most), "no less than is needed"

    @pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
    def test_less_of_anything_costs_no_more(self, asked: dict[str, Any]) -> None:
        wanted = work(images=4, **asked)
        for factor, count in wanted.factors.items():
            assert wanted.lowered(factor, count // 2 or 1).cost.within(wanted.cost)

    def test_where_no_factor_suffices_alone_the_largest_is_named(self) -> None:
        with pytest.raises(RequestTooCostly) as refused:
            check_cost(work(images=3, **ASKED["everything"]), Cost(1, 10**9, 10**9))
        assert refused.value.details == {"factor": "smooth", "asked": 5, "allowed": 0}

    def test_one_picture_that_is_too_much_by_itself(self) -> None:
        with pytest.raises(RequestTooCostly, match="Ask for less"):
            check_cost(work(outputs=("map",)), Cost(0.5, 10**9, 10**9))

    def test_nothing_readable_costs_nothing(self) -> None:
        assert check_cost(work(images=0), Cost(1, 1, 1)) == Cost()


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20))
def test_what_is_added_and_taken_away_is_gone(parts: list[tuple[float, int, int]]) -> None:
    total = Cost()
    for part in parts:
        total += Cost(*part)
    for part in parts:
        total -= Cost(*part)
    assert (total.pixels, total.bytes) == (0, 0)
    assert total.forward == pytest.approx(0, abs=1e-6)
