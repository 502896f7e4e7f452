"""What becomes of the worker's maps in an answer: their shape, where they say nothing, what they are drawn on."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from tests.toys import png
from tests.web.application import answer_row, faked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.cam.targets import Targets
    from service.engine.messages import Lane, RowAnswer
    from tests.web.application import Outcome

EXPLAIN = "/api/v1/explain"
PICTURE = png(np.full((64, 64, 3), 90, np.uint8))


def giving(*maps: NDArray[np.float32]) -> Outcome:
    """Let the worker answer with these maps, in the order of what was asked for."""

    def outcome(lane: Lane, question: Targets) -> RowAnswer:
        row = answer_row(lane, question)
        drawn = zip(row.maps, maps, strict=True)
        return replace(row, maps=tuple(replace(raw, values=values) for raw, values in drawn))

    return outcome


async def explanations(outcome: Outcome, **query: Any) -> list[dict[str, Any]]:
    async with faked() as application, application.client() as client:
        application.worker.outcome = outcome
        response = await client.post(EXPLAIN, params=query, content=PICTURE, headers={"Content-Type": "image/png"})
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["results"][0]["explanations"]
        return found


def pixels(encoded: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded["data"]))))


async def test_a_map_has_its_rows_before_its_columns() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    (only,) = await explanations(giving(values), output=["map", "mask"], size="layer")
    assert only["map"]["shape"] == [2, 3]
    assert np.array_equal(np.frombuffer(base64.b64decode(only["map"]["data"]), "<f4").reshape(2, 3), values)
    assert pixels(only["mask"]).shape == (2, 3)


async def test_a_constant_map_is_told_as_it_is_and_drawn_cold() -> None:
    values = np.full((4, 4), 3, np.float32)
    (only,) = await explanations(giving(values), output=["map", "mask", "regions"])
    assert (only["reason"], only["empty"], only["maximum"]) == ("constant", True, 3)
    assert np.array_equal(np.frombuffer(base64.b64decode(only["map"]["data"]), "<f4"), values.ravel())
    assert not pixels(only["mask"]).any()
    assert only["regions"] == []


async def test_each_layer_is_drawn_on_the_picture_at_its_own_size() -> None:
    maps = [np.tile(np.arange(side, dtype=np.float32), (side, 1)) for side in (4, 8)]
    found = await explanations(giving(*maps), layer=["conv1", "conv2"], output="overlay", size="layer")
    assert [pixels(each["overlay"]).shape for each in found] == [(4, 4, 3), (8, 8, 3)]
