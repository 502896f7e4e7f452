"""Models from users' own code, through the whole engine: heads and multi-label answers."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import pytest_asyncio

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.errors import InternalError, InvalidOption, MethodNotApplicable, UnknownHead, UnknownLabel
from service.metrics import Metrics
from service.settings import load_settings
from tests.toys import png
from tests.web.application import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from service.engine.answers import ImageAnswer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = Upload(png(size=(40, 32)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    models = [
        "heads=tests.user_models.two_heads,size=32",
        "labels=tests.user_models.one_head,size=32,multi_label=true",
        "one=tests.user_models.one_logit,size=32",
        "sure=tests.user_models.probabilities,size=32",
        "frozen=tests.user_models.without_gradients,size=32",
        "pair=tests.user_models.ensemble,size=32",
        "dark=tests.user_models.fails_on_black,size=32,resize=32",
    ]
    explainer = Explainer(load_settings(models=models), Metrics())
    await explainer.start()
    await explainer.settled("dark")
    yield explainer
    await explainer.stop()


async def test_the_first_head_answers_unless_another_is_asked_for(engine: Explainer) -> None:
    for head, classes in ((None, 3), ("coarse", 3), ("fine", 7)):
        answer = await engine.answer(Request([PICTURE], model="heads", head=head, outputs=("map",)))
        (picture,) = answer.images
        assert len(picture.predictions) == min(5, classes)
        assert picture.explanations[0].target.index < classes
        assert picture.error is None


async def test_classes_are_those_of_the_head(engine: Explainer) -> None:
    answer = await engine.answer(Request([PICTURE], model="heads", head="fine", targets=(6,), outputs=("map",)))
    assert answer.images[0].explanations[0].target.label == "class 6"
    with pytest.raises(UnknownLabel):
        await engine.answer(Request([PICTURE], model="heads", targets=(6,)))
    with pytest.raises(InvalidOption, match="only 3 classes"):
        await engine.answer(Request([PICTURE], op="predict", model="heads", top_k=7))
    with pytest.raises(UnknownHead, match="It has coarse, fine"):
        await engine.answer(Request([PICTURE], op="predict", model="heads", head="embedding"))


async def test_multi_label_probabilities_are_independent_sigmoids(engine: Explainer) -> None:
    answer = await engine.answer(Request([PICTURE], op="predict", model="labels"))
    for score in answer.images[0].predictions:
        assert score.probability == pytest.approx(1 / (1 + math.exp(-score.logit)))


async def test_one_logit_is_one_of_two_classes(engine: Explainer) -> None:
    answer = await engine.answer(Request([PICTURE], model="one", targets=(0, 1), signed=True, outputs=("map",)))
    (first, second), (rest, named) = answer.images[0].predictions, answer.images[0].explanations
    assert {first.index, second.index} == {0, 1}
    assert first.logit == -second.logit > 0
    assert first.probability == pytest.approx(1 / (1 + math.exp(-first.logit)))
    assert first.probability + second.probability == pytest.approx(1)
    np.testing.assert_array_equal(rest.raw, -named.raw)
    assert named.raw.any()


async def test_one_logit_rather_than_the_rest_counts_twice(engine: Explainer) -> None:
    """z - (-z) = 2 z."""
    asked = Request([PICTURE], model="one", targets=(1,), signed=True, outputs=("map",))
    (alone,) = (await engine.answer(asked)).images[0].explanations
    (against,) = (await engine.answer(replace(asked, against="class 0"))).images[0].explanations
    np.testing.assert_allclose(against.raw, 2 * alone.raw, rtol=1e-5)


async def test_probabilities_are_taken_as_they_are(engine: Explainer) -> None:
    answer = await engine.answer(Request([PICTURE], op="predict", model="sure"))
    assert [score.probability for score in answer.images[0].predictions] == [
        score.logit for score in answer.images[0].predictions
    ]
    assert sum(score.probability for score in answer.images[0].predictions) == pytest.approx(1)
    assert [warning.code for warning in answer.model.warnings] == ["probabilities"]


async def test_a_model_without_gradients_predicts_and_has_the_methods_that_need_none(engine: Explainer) -> None:
    with pytest.raises(MethodNotApplicable) as caught:
        await engine.answer(Request([PICTURE], model="frozen", outputs=("map",)))
    assert caught.value.message == (
        "Method 'gradcam' cannot be used here: no gradient reaches layer 'body', since the network computes it under "
        "torch.no_grad(); take that out of forward()."
    )
    (predicted,) = (await engine.answer(Request([PICTURE], op="predict", model="frozen"))).images
    free = Request([PICTURE], model="frozen", methods=("eigencam", "ablationcam"), outputs=("map",))
    (explained,) = (await engine.answer(free)).images
    assert logits_of(explained) == pytest.approx(logits_of(predicted), abs=1e-5)
    assert [found.raw.shape for found in explained.explanations] == [(8, 8)] * 2


async def test_a_map_of_one_of_several_branches_says_so(engine: Explainer) -> None:
    covers = "covers one of 2 branches that lead to the logits; the others end with"
    asked = Request([PICTURE], model="pair", layers=("default", "members.0.body"), outputs=("map",))
    answer = await engine.answer(asked)
    one, other = answer.images[0].explanations
    assert one.note == f"Layer 'members.1.body' {covers} 'members.0.body'."
    assert other.note == f"Layer 'members.0.body' {covers} 'members.1.body'."
    assert [warning.code for warning in answer.model.warnings] == ["default_layer_covers_part"]
    fused = await engine.answer(replace(asked, fuse="mean"))
    assert fused.images[0].explanations[0].note is None


@pytest.mark.parametrize("op", ["explain", "predict"])
async def test_pictures_beside_a_bad_one_have_the_answers_that_they_have_alone(
    engine: Explainer, op: Literal["explain", "predict"]
) -> None:
    """A batch that fails is cut in two, and again: rows keep their pixels and their classes."""
    images = [Upload(png(size=(40, 32), seed=seed)) for seed in range(12)]
    classes = (0, 1, 2, 2, 0, 1, 1, 0, 2, 1, 2, 0)  # no half has those of the other
    asked = [
        Request([image], op=op, model="dark", outputs=("map",), targets=(target,))
        for image, target in zip(images, classes, strict=True)
    ]
    alone = [(await engine.answer(each)).images[0] for each in asked]
    asked[5] = replace(asked[5], images=[Upload(png(np.zeros((32, 40, 3), np.uint8)))])

    # While another batch of the model computes, these gather.
    busy = asyncio.ensure_future(engine.answer(replace(asked[0], op="explain", smooth=4)))
    await until(lambda: engine.workers()[0].batches)
    ended = await asyncio.gather(*(engine.answer(each) for each in asked), return_exceptions=True)
    await busy
    assert [index for index, answer in enumerate(ended) if isinstance(answer, InternalError)] == [5]
    for answer, expected in zip(ended, alone, strict=True):
        if isinstance(answer, BaseException):
            continue
        (found,) = answer.images
        assert logits_of(found) == pytest.approx(logits_of(expected), abs=1e-4)
        for one, other in zip(found.explanations, expected.explanations, strict=True):
            assert one.target.index == other.target.index
            np.testing.assert_allclose(one.raw, other.raw, atol=1e-5)


def logits_of(image: ImageAnswer) -> dict[int, float]:
    return {score.index: score.logit for score in image.predictions}
