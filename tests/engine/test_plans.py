"""Images with options of their own in one request."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from service.engine.cost import Cost, Work, check_costs
from service.engine.encoded import EncodedSentences
from service.engine.plans import Plans
from service.engine.request import Request, Upload
from service.errors import RequestTooCostly, UnknownLayer
from service.imaging.decode import Header
from service.options import Options, attributes_of
from tests.engine.test_wording import ZERO_SHOT
from tests.web.application import PETS

if TYPE_CHECKING:
    from service.engine.plan import Plan
    from service.models.info import ModelInfo


def test_images_with_the_same_options_have_the_same_plan() -> None:
    own = [Options(targets=("cat",)), None, Options(targets=("cat",)), Options(layers=("conv1",)), None]
    made = [todo for _, todo in Plans(64).of(Request([Upload(b"", options=each) for each in own]), PETS)]
    assert made[0] is made[2]
    assert made[1] is made[4]
    assert len({id(todo) for todo in made}) == 3
    assert made[0].targets.classes == (0,)
    assert made[3].lane.layers == ("conv1",)


def test_every_option_that_callers_give_can_be_an_images_own() -> None:
    box = Options(**attributes_of({"region": [0, 0, 9, 9], "labels": []}))
    polygon = Options(**attributes_of({"region": [[0, 0], [9, 0], [0, 9]]}))
    uploads = [Upload(b"", options=each) for each in (box, polygon, box)]
    made = [todo for _, todo in Plans(64).of(Request(uploads), PETS)]
    assert made[0] is made[2]
    assert [todo.area.shape.area for todo in made[:2] if todo.area is not None] == [81, 40.5]


def test_options_of_its_own_that_cannot_be_met_are_an_images_error_alone() -> None:
    wrong = Upload(b"x", "a.png", options=Options(layers=("conv3",)))
    (first, _), (second, todo) = Plans(64).of(Request([Upload(b"y"), wrong]), PETS)
    assert (first.data, first.error) == (b"y", None)
    assert isinstance(second.error, UnknownLayer)
    assert second.filename == "a.png"
    assert todo.lane.layers == ("conv2",), "it counts for something, and is not computed"


def test_the_requests_own_options_are_everybodys() -> None:
    with pytest.raises(UnknownLayer):
        Plans(64).of(Request([Upload(b"")], layers=("conv3",)), PETS)


def test_costs_of_different_options_are_added_up() -> None:
    request = Request([Upload(b"", options=Options(targets=(name,))) for name in ("cat", "dog", "owl")])
    works = [Work.of(todo, [Header(32, 32, 1024)]) for _, todo in Plans(64).of(request, PETS)]
    each = works[0].cost
    most = Cost(2.5 * each.forward, 10**9, 10**9)
    assert check_costs(works[:2], most).forward == pytest.approx(2 * each.forward)
    with pytest.raises(RequestTooCostly, match="Lower 'image' from 3 to 2") as caught:
        check_costs(works, most)
    assert caught.value.details == {"factor": "image", "asked": 3, "allowed": 2}


def test_what_was_asked_before_is_not_planned_again() -> None:
    plans = Plans(64)

    def planned(info: ModelInfo = PETS, **asked: Any) -> Plan:
        ((_, made),) = plans.of(Request([Upload(b"")], **asked), info)
        return made

    first = planned(targets=("cat",), client="a")
    assert planned(targets=("cat",), client="b", timeout_s=3.0) is first
    assert planned(targets=("dog",)) is not first
    assert planned(targets=("cat",), op="predict") is not first
    loaded_anew = planned(replace(PETS), targets=("cat",))
    assert loaded_anew is not first
    assert planned(targets=("cat",)) is not loaded_anew


def test_only_so_much_is_remembered() -> None:
    plans = Plans(64)
    for top_k in range(1, 4):
        for alpha in range(100):
            plans.of(Request([Upload(b"")], top_k=top_k, alpha=alpha / 100), PETS)
    region = Request([Upload(b"")], region=[0.0, 0.0, 9.0, 9.0])
    assert plans.of(region, PETS)[0][1] is not plans.of(region, PETS)[0][1], "it may have any number of points"
    assert len(plans._latest) == 64


def test_costs_are_remembered_with_their_plan() -> None:
    plans, small, large = Plans(64), (Header(8, 8, 64),), (Header(32, 32, 1024),)
    ((_, todo),) = plans.of(Request([Upload(b"")]), PETS)
    first = plans.work(todo, small)
    assert plans.work(todo, small) is first
    assert plans.work(todo, large).cost.pixels > first.cost.pixels
    for side in range(1, 100):
        plans.work(todo, (Header(side, 1, side),))
    assert len(plans._works[todo]) < 100
    ((_, passing),) = plans.of(Request([Upload(b"")], region=[0.0, 0.0, 9.0, 9.0]), PETS)
    plans.work(passing, small)
    assert len(plans._works) == 2
    del passing
    assert len(plans._works) == 1


def test_what_sentences_cost_is_estimated_each_time() -> None:
    encoded = EncodedSentences()
    plans, request = Plans(64, encoded), Request([Upload(b"")], labels=("red car", "bicycle"))
    ((_, before),) = plans.of(request, ZERO_SHOT)
    encoded.remember(ZERO_SHOT.key, before.lane.sentences.all)
    ((_, after),) = plans.of(request, ZERO_SHOT)
    assert (before.encoded > 0, after.encoded) == (True, 0)
