"""Maps put to the proof, on networks that read one pixel: what comes out is worked out by hand.

The picture is black but for the pixel that is read. Of one white pixel a strong blur leaves less than half a level, so
that hiding it makes the picture black, and the drop is the whole of what the pixel gives.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.cam.folding import FoldedNetwork
from service.cam.methods import METHODS
from service.cam.pace import Pace
from service.cam.targets import CamOptions, Targets, Top
from service.engine.map_summary import summarise
from service.engine.messages import Lane, RowAnswer
from service.engine.workers.counterparts import Asked, as_answers
from service.engine.workers.verifying import Examined
from service.errors import InternalError
from service.models.host import HowTo, ModelHost
from service.models.info import ModelKey
from service.verification.gates import other_class
from service.verification.region import View
from tests.verification.hosts import host, proved
from tests.verification.models import COLUMN, ROW, SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.verification.verdict import Verification

SPOT = "tests.verification.models.Spot"
PLAIN: dict[str, Any] = {"size": SIDE, "mean": 0.0, "std": 1.0}


def picture(channels: int = 3, width: int = SIDE) -> NDArray[np.uint8]:
    pixels = np.zeros((SIDE, width, channels), np.uint8)
    pixels[ROW, COLUMN * width // SIDE] = 255
    return pixels


def square(row: int, column: int, width: int = SIDE, half: int = 10) -> NDArray[np.float32]:
    """A map that is hot around a place, with a cell for each pixel."""
    values = np.zeros((SIDE, width), np.float32)
    values[row - half : row + half, column - half : column + half] = 1
    return values


THERE, ELSEWHERE = square(ROW, COLUMN), square(100, 24)


def spot(**config: Any) -> ModelHost:
    return host(SPOT, **{**PLAIN, **config})


class TestByHand:
    def test_a_map_of_what_is_read_is_supported_and_any_other_is_not(self) -> None:
        there, elsewhere = proved(spot(), picture(), [THERE, ELSEWHERE])
        assert (there.verdict, there.p) == ("supported", 1 / 20)
        assert there.drop == pytest.approx(10, abs=1e-3)
        assert there.drop_probability == pytest.approx(1 - 1 / 2, abs=1e-3)  # softmax of (10, -10), and of (0, 0)
        assert there.controls is not None
        assert there.controls.count == 19
        assert there.controls.max < 10
        assert (elsewhere.verdict, elsewhere.drop, elsewhere.p) == ("not_supported", 0, 1.0)
        assert elsewhere.passes == there.passes

    def test_it_does_not_matter_how_hot(self) -> None:
        faint, strong = proved(spot(), picture(), [THERE * 1e-6, THERE * 1e6])
        assert faint == strong

    def test_the_class_that_is_not_there(self) -> None:
        """Hiding what speaks against it raises its score."""
        (found,) = proved(spot(), picture(), [THERE], target=1)
        assert found.verdict == "not_supported"
        assert found.drop == pytest.approx(-10, abs=1e-3)
        assert found.p == 1.0

    def test_log_odds_where_the_model_says_probabilities(self) -> None:
        """Ten, of which float32 leaves nearly all: 1 - 4.5e-5."""
        model = host("tests.verification.models.Probable", **PLAIN, activation="none")
        (found,) = proved(model, picture(), [THERE])
        assert found.drop == pytest.approx(10, abs=0.01)
        assert found.drop_probability == pytest.approx(1 / (1 + math.exp(-10)) - 1 / 2, abs=1e-4)
        assert found.verdict == "supported"

    def test_one_output(self) -> None:
        model = host("tests.verification.models.Single", **PLAIN)
        for target, drop in ((1, 10), (0, -10)):
            (found,) = proved(model, picture(), [THERE], target=target)
            assert found.drop == pytest.approx(drop, abs=1e-3)

    def test_another_head(self) -> None:
        model = host("tests.verification.models.TwoHeads", **PLAIN)
        (found,) = proved(model, picture(), [THERE], target=2, head="other")
        assert found.verdict == "supported"
        assert found.drop == pytest.approx(10, abs=1e-3)

    def test_classes_that_do_not_exclude_each_other(self) -> None:
        (found,) = proved(spot(multi_label=True), picture(), [THERE])
        assert found.drop_probability == pytest.approx(1 / (1 + math.exp(-10)) - 1 / 2, abs=1e-4)

    def test_one_class_against_another(self) -> None:
        """The score is 10 - (-10)."""
        (found,) = proved(spot(), picture(), [THERE], against=1)
        assert found.drop == pytest.approx(20, abs=1e-3)

    def test_one_channel(self) -> None:
        model = host(SPOT, **PLAIN, channels=1, factory_args={"channels": 1})
        (found,) = proved(model, picture(channels=1), [THERE])
        assert found.verdict == "supported"
        assert found.drop == pytest.approx(10, abs=1e-3)

    def test_an_input_that_is_no_square(self) -> None:
        width = 2 * SIDE
        model = host(SPOT, mean=0.0, std=1.0, height=SIDE, width=width, mode="squash", factory_args={"width": width})
        maps = [square(ROW, 2 * COLUMN, width), square(ROW, COLUMN, width)]
        there, elsewhere = proved(model, picture(width=width), maps)
        assert (there.verdict, elsewhere.verdict) == ("supported", "not_supported")
        assert there.drop == pytest.approx(10, abs=1e-3)


class TestUndecided:
    @pytest.mark.parametrize("value", [0, -1, 1], ids=["zero", "nothing positive", "the same everywhere"])
    def test_a_map_that_shows_nothing(self, value: int) -> None:
        (found,) = proved(spot(), picture(), [np.full((SIDE, SIDE), value)])
        assert (found.verdict, found.reason, found.drop, found.p) == ("undecided", "empty", None, None)
        assert found.controls is None

    def test_a_map_that_is_hot_in_the_padding_alone(self) -> None:
        (found,) = proved(spot(), picture(), [ELSEWHERE], view=View(0, 0, 80, SIDE))
        assert (found.verdict, found.reason) == ("undecided", "nothing_to_hide")

    def test_a_map_of_what_speaks_against_the_class_alone_is_not_empty(self) -> None:
        """Nor does the explanation call it so: its values differ."""
        against, both = proved(spot(), picture(), [-THERE, THERE - ELSEWHERE])
        assert (against.verdict, against.reason, against.drop) == ("undecided", "nothing_to_hide", None)
        assert set(against.gates.missing.values()) == {"nothing_to_hide"}
        assert both.verdict == "supported"
        (alone,) = proved(spot(), picture(), [-THERE])
        assert alone == against
        assert summarise(-THERE, signed=True, zero_gradient=False).reason is None

    def test_too_few_places_for_the_same_shape(self) -> None:
        """In a strip of four rows, a quarter of it wide, each of the places shares half with the next."""
        strip = np.zeros((SIDE, SIDE), np.float32)
        strip[:, 0:16] = 1
        (found,) = proved(spot(), picture(), [strip], view=View(ROW, 0, ROW + 1, SIDE))
        assert (found.verdict, found.reason, found.p) == ("undecided", "few_controls", None)
        assert found.controls is not None
        assert found.controls.count < 19
        assert found.passes <= 1 + found.controls.count + 2


def test_what_lies_outside_the_view_stays_as_it_is() -> None:
    """The pixel that is read lies in the padding: nothing that is hidden in the view moves the score."""
    (found,) = proved(spot(), picture(), [THERE], view=View(ROW + 2, 0, SIDE, SIDE))
    assert (found.verdict, found.drop) == ("not_supported", 0)


# -- what the engine makes of it --------------------------------------------------------------------------------------


def examined(model: ModelHost, lane: Lane, pixels: NDArray[np.uint8], targets: Targets, **more: Any) -> Examined:
    """Explain a picture, and return it with its maps."""
    asked = Asked(model, lane, pixels, targets, lambda _done, _total: None)
    answer, found = asked.answered()
    asked = replace(asked, checkpoint=more.get("checkpoint", asked.checkpoint))
    return Examined(asked, View(0, 0, *pixels.shape[:2]), answer, found)


def explained(model: ModelHost, lane: Lane, pixels: NDArray[np.uint8], targets: Targets) -> RowAnswer:
    (row,) = model.explain(pixels[None], [targets], HowTo(lane.layers, lane.methods, lane.cam_options, lane.head))
    return as_answers([row])[0]


def lane(*methods: str, layers: Sequence[str] = ("layer4",), **options: Any) -> Lane:
    return Lane(
        ModelKey("shapes", 1), "explain", tuple(layers), methods, CamOptions(**options), large=True, verify=True
    )


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (96, 96, 3), dtype=np.uint8)


class Counting:
    """Counts the rows that go through a model's first layer."""

    def __init__(self, model: ModelHost, first: str) -> None:
        self.rows = 0
        network = model.network()
        module = network.own_module if isinstance(network, FoldedNetwork) else network._module  # type: ignore[attr-defined]
        self._handle = module.get_submodule(first).register_forward_hook(self._count)

    def _count(self, _module: object, inputs: Any, _output: object) -> None:
        self.rows += len(inputs[0])

    def close(self) -> None:
        self._handle.remove()


NETWORKS = {"shapes": ("stem", {}), "tests.verification.models.transformer": ("conv_proj", {"size": 32})}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", NETWORKS)
def test_no_proof_takes_more_than_22_passes_and_all_are_counted(
    architecture: str, method: str, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "rows", lambda _self, _kind: 10**9)  # steps that time cuts begin anew
    first, config = NETWORKS[architecture]
    model = host(architecture, **config)
    if method in model.info.refused_methods:
        pytest.skip(model.info.refused_methods[method])
    side = model.info.preprocess.height
    asked, shown = lane(method, layers=(model.info.default_layer,)), pixels[:side, :side].copy()
    counting = Counting(model, first)
    try:
        explained(model, asked, shown, Targets((Top(1),)))
        alone, counting.rows = counting.rows, 0
        todo = examined(model, asked, shown, Targets((Top(1),)))
        (found,) = todo.proofs()
    finally:
        counting.close()
    (raw,) = todo.answer.maps
    assert (found.verdict == "undecided") == (not raw.values.any())
    if found.verdict != "undecided":
        assert found.passes == counting.rows - alone <= 22


def test_several_layers_methods_and_classes(pixels: NDArray[np.uint8]) -> None:
    """In the order of their maps, and each as if it were asked for alone."""
    model = host("shapes")
    asked = lane("gradcam", "eigencam", "scorecam", "layercam", layers=("layer3", "layer4"))
    targets = Targets((Top(1), 3))
    together = examined(model, asked, pixels, targets)
    found = together.proofs()
    assert len(found) == len(together.answer.maps) == 2 * 4 * 2
    for index, (raw, proof) in enumerate(zip(together.answer.maps, found, strict=True)):
        alone = examined(model, lane(raw.method, layers=(raw.layer,)), pixels, Targets((raw.target,)))
        (expected,) = alone.proofs()
        assert same(proof, expected), index


def same(one: Verification, other: Verification) -> bool:
    """Whether two proofs are the same but for rounding."""
    told = (one.p, one.verdict, one.gates, one.passes) == (other.p, other.verdict, other.gates, other.passes)
    if one.drop is None or other.drop is None:
        return told and one.drop is other.drop
    return told and one.drop == pytest.approx(other.drop, rel=1e-3, abs=1e-4)


def test_the_same_picture_has_the_same_proof(pixels: NDArray[np.uint8]) -> None:
    model, asked = host("shapes"), lane("gradcam")
    first, second = (examined(model, asked, pixels, Targets((2,))).proofs()[0] for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize("options", [{"signed": True}, {"flip": True}, {"smooth": 2}, {"fuse": "mean"}], ids=str)
def test_every_way_to_make_maps(options: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
    layers = ("layer3", "layer4") if "fuse" in options else ("layer4",)
    (found,) = examined(host("shapes"), lane("gradcam", layers=layers, **options), pixels, Targets((Top(1),))).proofs()
    assert found.drop is not None
    assert None not in (found.gates.class_differs, found.gates.random_head_differs)
    several_views = "flip" in options or "smooth" in options
    assert found.passes == 21 if several_views else 22


SHARING = [
    *(("shapes", name, "layer4", {}) for name in ("scorecam", "ablationcam", "smoothgradcam++")),
    *(("shapes", name, "layer3", {"smooth": 2, "flip": True}) for name in ("gradcam", "finercam", "shapleycam")),
    ("tests.verification.models.transformer", "scorecam", "encoder.layers.encoder_layer_1.ln_1", {}),
]


@pytest.mark.parametrize(("architecture", "method", "layer", "options"), SHARING)
def test_of_many_passes_what_gates_compare_is_what_it_would_be_alone(
    architecture: str, method: str, layer: str, options: dict[str, Any], pixels: NDArray[np.uint8]
) -> None:
    """The maps themselves, those of other classes and those of the random head: each as explained by itself."""
    model = host(architecture, **NETWORKS[architecture][1])
    side = model.info.preprocess.height
    asked, shown = lane(method, layers=(layer,), **options), pixels[:side, :side].copy()
    answer, found = Asked(model, asked, shown, Targets((Top(1), 3)), lambda _done, _total: None).answered()
    classes = [raw.target for raw in answer.maps]
    others = [other_class(answer.logits, target, None) for target in classes]
    how = HowTo(asked.layers, asked.methods, asked.cam_options)

    def alone(wanted: Sequence[int | None], how: HowTo) -> list[NDArray[np.float32]]:
        (row,) = model.explain(shown[None], [Targets(tuple(each for each in wanted if each is not None))], how)
        return [raw.values.numpy() for raw in row.maps]

    expected = [alone(classes, how), alone(others, how), alone(classes, replace(how, random_head=2016))]
    made = [[raw.values for raw in answer.maps], list(found.by_class.values()), list(found.by_head.values())]
    for each, other in zip(made, expected, strict=True):
        assert len(each) == 2
        for one, two in zip(each, other, strict=True):
            np.testing.assert_allclose(one, two, atol=2e-3 * max(1e-6, float(np.abs(two).max())))


@pytest.mark.parametrize("method", ["gradcam", "scorecam"])
def test_one_class_against_another_has_a_random_head_too(method: str, pixels: NDArray[np.uint8]) -> None:
    options: dict[str, Any] = {} if method == "scorecam" else {"flip": True}
    asked = Asked(host("shapes"), lane(method, **options), pixels, Targets((1,), 2), lambda _done, _total: None)
    answer, found = asked.answered()
    how = HowTo(("layer4",), (method,), CamOptions(**options), random_head=2016)
    (row,) = host("shapes").explain(pixels[None], [Targets((1,), 2)], how)
    expected = row.maps[0].values.numpy()
    np.testing.assert_allclose(found.by_head[0, 0, 0], expected, atol=2e-3 * np.abs(expected).max())
    assert answer.maps[0].target == 1


def test_a_network_of_one_output_has_both_heads_side_by_side() -> None:
    """What the second head says is -z and z of its own z."""
    model = host("tests.verification.models.single_head", size=32)
    shown = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    asked = Asked(model, lane("scorecam", layers=("body",)), shown, Targets((1,)), lambda _done, _total: None)
    _, found = asked.answered()
    (row,) = model.explain(shown[None], [Targets((1,))], HowTo(("body",), ("scorecam",), random_head=2016))
    np.testing.assert_allclose(found.by_head[0, 0, 0], row.maps[0].values.numpy(), rtol=1e-3, atol=1e-6)


class TestWithoutGates:
    """No gate is missing without a word."""

    def test_the_method_is_of_the_whole_network(self, pixels: NDArray[np.uint8]) -> None:
        (found,) = examined(host("shapes"), lane("fullgrad"), pixels, Targets((Top(1),))).proofs()
        assert found.gates.missing == {"random_head_differs": "whole_network"}

    def test_with_several_views_it_would_take_too_many_passes(self, pixels: NDArray[np.uint8]) -> None:
        """FullGrad runs the model for each class, in each view."""
        (found,) = examined(host("shapes"), lane("fullgrad", smooth=4), pixels, Targets((Top(1),))).proofs()
        assert found.gates.missing == {"class_differs": "many_passes", "random_head_differs": "whole_network"}
        assert found.passes == 20

    def test_nobody_knows_the_head(self) -> None:
        (found,) = proved(spot(), picture(), [THERE])
        assert found.gates.missing["random_head_differs"] == "head_unknown"

    def test_of_two_classes_one_against_the_other(self) -> None:
        (found,) = proved(spot(), picture(), [THERE], against=1)
        assert found.gates.missing["class_differs"] == "no_other_class"

    def test_a_map_that_shows_nothing(self) -> None:
        (found,) = proved(spot(), picture(), [np.zeros_like(THERE)])
        assert found.gates.missing == {"class_differs": "empty", "random_head_differs": "empty"}

    def test_what_follows_the_head_takes_no_more_rows_than_pictures(self) -> None:
        """Then there is the map of another class, of the same passes, and no random head."""
        model = host("tests.verification.models.stubborn", size=32)
        shown = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (found,) = examined(model, lane("scorecam", layers=("body",)), shown, Targets((Top(1),))).proofs()
        assert found.gates.class_differs is not None
        assert found.gates.missing == {"random_head_differs": "head_unknown"}
        assert found.passes == 21


def test_methods_that_know_no_classes_fail_both_gates(pixels: NDArray[np.uint8]) -> None:
    (found,) = examined(host("shapes"), lane("eigencam"), pixels, Targets((Top(1),))).proofs()
    assert (found.gates.class_differs, found.gates.random_head_differs, found.passes) == (False, False, 20)


def test_where_the_head_is_not_known_there_is_no_gate(pixels: NDArray[np.uint8]) -> None:
    """A model whose logits are pixels has no layer of weights in front of them."""
    (found,) = proved(spot(), picture(), [THERE])
    assert found.gates.random_head_differs is None


def test_it_is_given_up_between_passes(pixels: NDArray[np.uint8]) -> None:
    steps = 0

    def give_up(_done: int, _total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise InternalError("nobody waits")

    todo = examined(host("shapes"), lane("gradcam"), pixels, Targets((Top(1),)), checkpoint=give_up)
    with pytest.raises(InternalError, match="nobody waits"):
        todo.proofs()
    assert steps == 5
