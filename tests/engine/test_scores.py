"""How sure a prediction is, by hand-worked numbers; and the scores of maps, all the way through the engine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.cam.layers import Layout
from service.cam.raw_map import RawMap
from service.engine.messages import RowAnswer
from service.engine.plan import plan
from service.engine.request import Request, Upload
from service.engine.scores import certainty_of
from tests.toys import png
from tests.web.application import PETS, faked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.cam.targets import Targets
    from service.engine.answers import Answer
    from service.models.info import ModelInfo
    from tests.web.application import Application


def certainty(logits: Sequence[float], **changes: Any) -> tuple[float | None, float | None]:
    info: ModelInfo = replace(PETS, **changes)
    scores = certainty_of(np.array(logits, np.float32), info)
    assert (scores.mass_inside, scores.flip_stability, scores.layer_agreement) == (None, None, None)
    return scores.entropy, scores.margin


class TestCertainty:
    def test_all_classes_equally_likely(self) -> None:
        assert certainty([2, 2, 2]) == pytest.approx((1, 0))

    def test_one_class_alone(self) -> None:
        assert certainty([1000, 0, 0]) == (0, 1)

    def test_by_hand(self) -> None:
        """Probabilities 1/2, 1/4, 1/4: entropy 1.5 bits of log2(3)."""
        entropy, margin = certainty([math.log(2), 0, 0])
        assert entropy == pytest.approx(1.5 / math.log2(3))
        assert margin == pytest.approx(1 / 4)

    def test_probabilities_as_they_are(self) -> None:
        entropy, margin = certainty([0.5, 0.25, 0.25], activation="none")
        assert (entropy, margin) == pytest.approx((1.5 / math.log2(3), 0.25))

    def test_numbers_that_are_no_probabilities(self) -> None:
        assert certainty([0, -1, -2], activation="none") == (None, 1)

    def test_classes_that_do_not_exclude_each_other(self) -> None:
        """Of a coin, a certainty, and one of 1 : 3: 1, 0 and 0.811 bits."""
        entropy, margin = certainty([0, 900, -math.log(3)], activation="sigmoid", multi_label=True)
        assert entropy == pytest.approx((1 + 0 + 0.811278) / 3, abs=1e-5)
        assert margin == pytest.approx(0.5)

    def test_one_output_with_two_classes(self) -> None:
        entropy, margin = certainty([-math.log(3), math.log(3)], activation="sigmoid")
        assert entropy == pytest.approx(0.811278, abs=1e-5)
        assert margin == pytest.approx(1 / 2)

    def test_one_class_has_no_margin(self) -> None:
        assert certainty([0], activation="sigmoid", multi_label=True) == (1, None)
        assert certainty([0]) == (None, None)


def maps(*values: Any) -> Any:
    """A worker's answers: the first map for the picture, the next for its mirror image."""
    left = list(values)

    def outcome(lane: Any, question: Targets) -> RowAnswer:
        asked = [(layer, target) for layer in lane.layers for target in question.resolve([1, 2, 0])]
        some, left[:] = left[: len(asked)], left[len(asked) :]
        return RowAnswer(
            np.array([1, 3, 2], np.float32),
            tuple(
                RawMap(layer, "gradcam", target, np.array(each, np.float32), zero_gradient=False)
                for (layer, target), each in zip(asked, some, strict=True)
            ),
        )

    return outcome


async def explained(application: Application, **asked: Any) -> Answer:
    return await application.explainer.answer(Request([Upload(png())], outputs=("scores",), **asked))


RISING, FALLING = [[0, 1, 2, 3]] * 4, [[3, 2, 1, 0]] * 4


class TestScoresOfMaps:
    async def test_a_map_that_follows_the_picture_is_stable(self) -> None:
        async with faked() as application:
            application.worker.outcome = maps(RISING, FALLING)
            scores = (await explained(application)).images[0].explanations[0].scores
            assert scores is not None
            assert scores.flip_stability == pytest.approx(1)
            assert (scores.mass_inside, scores.layer_agreement) == (None, None)
            assert scores.margin == pytest.approx(math.exp(3) / S - math.exp(2) / S)

    async def test_a_map_that_stays_where_it_was_is_not(self) -> None:
        async with faked() as application:
            application.worker.outcome = maps(RISING, RISING)
            scores = (await explained(application)).images[0].explanations[0].scores
            assert scores is not None
            assert scores.flip_stability == pytest.approx(-1)

    async def test_the_mirror_image_is_asked_about_the_same_classes(self) -> None:
        async with faked() as application:
            await explained(application, targets=("top-2", "cat"))
            first, second = application.worker.sent
            assert np.array_equal(second.pixels, first.pixels[:, :, ::-1])
            assert first.targets[0].resolve([1, 2, 0]) == second.targets[0].classes == (1, 2, 0)

    async def test_layers_agree_as_their_maps_do(self) -> None:
        async with faked() as application:
            application.worker.outcome = maps(RISING, FALLING, RISING, FALLING)
            answer = await explained(application, layers=("conv1", "conv2"))
            found = [each.scores.layer_agreement for each in answer.images[0].explanations if each.scores]
            assert found == [pytest.approx(-1)] * 2

    async def test_what_lies_in_the_region(self) -> None:
        async with faked() as application:
            application.worker.outcome = maps([[1] * 4] * 4, [[1] * 4] * 4)
            request = Request([Upload(png())], outputs=("scores",), region="[0, 0, 32, 1000]")
            answer = await application.explainer.answer(request)
            assert answer.images[0].width == 64
            scores = answer.images[0].explanations[0].scores
            assert scores is not None
            assert scores.mass_inside == pytest.approx(1 / 2)
            assert scores.flip_stability is None, "it is the same everywhere"

    async def test_predictions_have_their_own(self) -> None:
        async with faked() as application:
            for op, told in (("predict", True), ("explain", True), ("predict", False), ("explain", False)):
                request = Request([Upload(png())], op=op, scores=told)  # type: ignore[arg-type]
                answer = await application.explainer.answer(request)
                assert (answer.images[0].scores is not None) == told
                assert all(each.scores is None for each in answer.images[0].explanations)
                assert answer.cost.forward < 2, "no mirror image"


S = math.exp(1) + math.exp(2) + math.exp(3)


def test_the_mirror_image_costs_as_much_again() -> None:
    from service.engine.cost import Work
    from service.imaging.decode import Header

    def cost(*outputs: Any) -> float:
        return Work.of(plan(Request(outputs=outputs), PETS, 64), [Header(8, 8, 64)]).cost.forward

    assert cost("map", "scores") == pytest.approx(2 * cost("map"))
    assert Work.of(plan(Request(outputs=("scores", "map")), PETS, 64), [Header(8, 8, 64)] * 2).lowered(
        "output", 1
    ).cost.forward == pytest.approx(4 * cost("map")), "which of them is left out is not known"


def test_a_layer_is_mirrored_where_it_looks() -> None:
    """Cells that look to the left of their place look to the right of it in the mirror image."""
    layer = replace(PETS.layer("conv1"), layout=Layout("nchw", 4, 4))
    placement = layer.placed("stretch", 32, 32)
    assert placement.turned_back(4, 32) == placement
    off = replace(placement, x=replace(placement.x, start=placement.x.start - 2))
    assert off.turned_back(4, 32).x.start == placement.x.start + 2
