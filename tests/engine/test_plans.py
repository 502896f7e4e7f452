"""Images with options of their own in one request."""

from __future__ import annotations

import pytest

from service.engine.cost import Cost, Work, check_costs
from service.engine.plans import plans
from service.engine.request import Request, Upload
from service.errors import RequestTooCostly, UnknownLayer
from service.imaging.decode import Header
from service.options import Options, attributes_of
from tests.web.application import PETS


def test_images_with_the_same_options_have_the_same_plan() -> None:
    own = [Options(targets=("cat",)), None, Options(targets=("cat",)), Options(layers=("conv1",)), None]
    made = [todo for _, todo in plans(Request([Upload(b"", options=each) for each in own]), PETS, 64)]
    assert made[0] is made[2]
    assert made[1] is made[4]
    assert len({id(todo) for todo in made}) == 3
    assert made[0].targets.classes == (0,)
    assert made[3].lane.layers == ("conv1",)


def test_every_option_that_callers_give_can_be_an_images_own() -> None:
    box = Options(**attributes_of({"region": [0, 0, 9, 9], "labels": []}))
    polygon = Options(**attributes_of({"region": [[0, 0], [9, 0], [0, 9]]}))
    made = [todo for _, todo in plans(Request([Upload(b"", options=each) for each in (box, polygon, box)]), PETS, 64)]
    assert made[0] is made[2]
    assert [todo.area.shape.area for todo in made[:2] if todo.area is not None] == [81, 40.5]


def test_options_of_its_own_that_cannot_be_met_are_an_images_error_alone() -> None:
    wrong = Upload(b"x", "a.png", options=Options(layers=("conv3",)))
    (first, _), (second, todo) = plans(Request([Upload(b"y"), wrong]), PETS, 64)
    assert (first.data, first.error) == (b"y", None)
    assert isinstance(second.error, UnknownLayer)
    assert second.filename == "a.png"
    assert todo.lane.layers == ("conv2",), "it counts for something, and is not computed"


def test_the_requests_own_options_are_everybodys() -> None:
    with pytest.raises(UnknownLayer):
        plans(Request([Upload(b"")], layers=("conv3",)), PETS, 64)


def test_costs_of_different_options_are_added_up() -> None:
    request = Request([Upload(b"", options=Options(targets=(name,))) for name in ("cat", "dog", "owl")])
    works = [Work.of(todo, [Header(32, 32, 1024)]) for _, todo in plans(request, PETS, 64)]
    each = works[0].cost
    most = Cost(2.5 * each.forward, 10**9, 10**9)
    assert check_costs(works[:2], most).forward == pytest.approx(2 * each.forward)
    with pytest.raises(RequestTooCostly, match="Lower 'image' from 3 to 2") as caught:
        check_costs(works, most)
    assert caught.value.details == {"factor": "image", "asked": 3, "allowed": 2}
