"""Models from users' own code, through the whole engine: heads and multi-label answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from service.engine.explainer import Explainer
from service.engine.request import Request, Upload
from service.errors import InvalidOption, UnknownHead, UnknownLabel
from service.metrics import Metrics
from service.settings import load_settings
from tests.toys import png

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURE = Upload(png(size=(40, 32)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[Explainer]:
    models = [
        "heads=tests.user_models.two_heads,size=32",
        "labels=tests.user_models.one_head,size=32,multi_label=true",
    ]
    explainer = Explainer(load_settings(models=models), Metrics())
    await explainer.start()
    await explainer.settled("labels")
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
