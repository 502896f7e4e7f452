"""signed, smooth, augment, fuse and every method, over HTTP with the embedded model."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.cam.methods import METHODS
from tests.protocols.native.pictures import star

if TYPE_CHECKING:
    import httpx
    from numpy.typing import NDArray

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXPLAIN = "/api/v1/explain"


async def explain(client: httpx.AsyncClient, **options: Any) -> list[dict[str, Any]]:
    data = {"output": "map", **options}
    response = await client.post(EXPLAIN, files={"image": ("star.png", star())}, data=data)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"][0]["explanations"]
    return found


def raw(explanation: dict[str, Any]) -> NDArray[np.float32]:
    array = explanation["map"]
    return np.frombuffer(base64.b64decode(array["data"]), "<f4").reshape(array["shape"])


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.refusal is None])
async def test_every_method_answers_with_numbers_that_fit_its_map(client: httpx.AsyncClient, method: str) -> None:
    (found,) = await explain(client, method=method)
    values = raw(found)
    assert found["method"] == method
    assert not found["empty"]
    assert found["reason"] is None
    assert values.min() >= 0
    assert found["maximum"] == pytest.approx(float(values.max()))
    assert found["minimum"] == pytest.approx(float(values.min()))
    assert found["sum"] == pytest.approx(float(values.sum()), rel=1e-5)
    assert ("knows no classes" in (found["note"] or "")) == (not METHODS[method].class_specific)


async def test_signed_keeps_what_speaks_against(client: httpx.AsyncClient) -> None:
    (plain,) = await explain(client, target="ring")
    (signed,) = await explain(client, target="ring", signed="true")
    assert raw(signed).min() < 0
    np.testing.assert_allclose(np.maximum(raw(signed), 0), raw(plain), atol=1e-6)
    assert signed["minimum"] < 0
    assert (plain["signed"], signed["signed"]) == (False, True)


async def test_signed_wants_a_diverging_colormap(client: httpx.AsyncClient) -> None:
    data = {"signed": "true", "colormap": "viridis"}
    refused = await client.post(EXPLAIN, files={"image": star()}, data=data)
    assert refused.status_code == 422
    assert "coolwarm" in refused.json()["detail"]
    (drawn,) = await explain(client, signed="true", colormap="seismic", output="heatmap")
    assert drawn["heatmap"]["media_type"] == "image/png"


@pytest.mark.parametrize("fuse", ["max", "mean", "product"])
async def test_fused_layers_are_one_explanation_on_the_finest_grid(client: httpx.AsyncClient, fuse: str) -> None:
    (found,) = await explain(client, layer=["layer4", "layer2"], fuse=fuse)
    assert found["layer"] == "layer4+layer2"
    assert found["map"]["shape"] == [24, 24]
    assert found["maximum"] <= 1.0 + 1e-6


async def test_smooth_and_flip_change_the_map_and_not_the_question(client: httpx.AsyncClient) -> None:
    (plain,) = await explain(client)
    for options in ({"smooth": 3}, {"augment": "flip"}, {"smooth": 2, "augment": "flip"}):
        (once,), (again,) = await explain(client, **options), await explain(client, **options)
        assert once["target"] == plain["target"]
        assert not np.allclose(raw(once), raw(plain), atol=1e-6)
        np.testing.assert_array_equal(raw(once), raw(again))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "legrad"}, "needs a transformer"),
        ({"method": "fullgrad", "signed": "true"}, "no sign by definition"),
        ({"method": "fullgrad", "layer": ["layer4", "layer3"], "fuse": "max"}, "the whole network"),
        ({"method": "finercam", "against": "ring"}, "chooses by itself"),
        ({"method": "eigencam", "against": "ring"}, "knows no classes"),
    ],
)
async def test_what_does_not_go_together_says_why(
    client: httpx.AsyncClient, options: dict[str, Any], says: str
) -> None:
    refused = await client.post(EXPLAIN, files={"image": star()}, data=options)
    assert refused.status_code == 422
    assert refused.json()["code"] == "method_not_applicable"
    assert says in refused.json()["detail"]


async def test_a_layer_is_not_fused_with_itself(client: httpx.AsyncClient) -> None:
    options = {"layer": ["layer4", "default"], "fuse": "max"}
    refused = await client.post(EXPLAIN, files={"image": star()}, data=options)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_option")


async def test_a_class_with_next_to_no_probability_still_gets_its_map(client: httpx.AsyncClient) -> None:
    explanations = await explain(client, target="top-12")
    least = explanations[-1]
    assert least["target"]["probability"] < 0.01
    assert "what little speaks for it" in least["note"]


async def test_the_model_lists_what_applies(client: httpx.AsyncClient) -> None:
    entry = (await client.get("/api/v1/models/shapes")).json()
    assert "legrad" not in entry["methods"]
    assert "legrad" in entry["refused_methods"]
    assert set(entry["methods"]) | set(entry["refused_methods"]) == set(METHODS)


async def test_registration_moves_what_is_drawn_and_not_the_map(client: httpx.AsyncClient) -> None:
    catalogue = (await client.get("/api/v1/models/shapes/layers")).json()["layers"]
    (place,) = [row["placement"] for row in catalogue if row["name"] == "layer4"]
    (measured,), (stretched,) = [
        await explain(client, output=["map", "mask", "regions"], registration=registration)
        for registration in ("measured", "stretch")
    ]

    np.testing.assert_array_equal(raw(measured), raw(stretched))
    assert measured["mask"]["data"] != stretched["mask"]["data"]
    # The picture is twice as large as the model's input.
    row, column = np.unravel_index(raw(measured).argmax(), (12, 12))
    start, step = place["x"]
    assert measured["peak"]["x"] == pytest.approx(2 * (start + column * step))
    assert measured["peak"]["y"] == pytest.approx(2 * (place["y"][0] + row * place["y"][1]))
    assert (stretched["peak"]["x"], stretched["peak"]["y"]) == (16 * column + 8, 16 * row + 8)


async def test_the_catalogue_says_where_cells_look(client: httpx.AsyncClient) -> None:
    catalogue = (await client.get("/api/v1/models/shapes/layers")).json()["layers"]
    places = {row["name"]: row["placement"] for row in catalogue}

    assert places["layer4"]["by"] == "measured"
    assert places["layer4"]["x"][1] == pytest.approx(8, rel=0.1)
    assert 0 < places["layer4"]["residual"] < 4
    # One cell looks everywhere: nothing to measure.
    assert places["avgpool"] == {"x": [48, 96], "y": [48, 96], "residual": None, "by": "stretch"}
    assert places["fc"] is None


async def test_fused_maps_are_brought_together_where_their_cells_look(client: httpx.AsyncClient) -> None:
    options = {"layer": ["layer4", "layer2"], "fuse": "mean"}
    (measured,), (stretched,) = [
        await explain(client, registration=registration, **options) for registration in ("measured", "stretch")
    ]

    assert not np.allclose(raw(measured), raw(stretched), atol=1e-3)


async def test_maps_of_the_whole_network_are_as_wide_as_the_input(client: httpx.AsyncClient) -> None:
    measured, stretched = [
        await explain(client, method="fullgrad", output="mask", registration=registration)
        for registration in ("measured", "stretch")
    ]

    assert measured[0]["mask"] == stretched[0]["mask"]


async def test_a_map_is_put_to_the_proof(client: httpx.AsyncClient) -> None:
    (found,) = await explain(client, verify="true", output=["map", "hidden"])
    told = found["verification"]
    assert set(told) == {*("drop", "drop_probability", "controls", "p", "verdict", "reason", "gates", "passes", "text")}
    assert told["controls"]["count"] == 19
    assert told["p"] * 20 == pytest.approx(round(told["p"] * 20))
    assert (told["verdict"] == "supported") == (told["p"] == 0.05)
    assert told["gates"] == {"missing": {}, "class_differs": True, "random_head_differs": True}
    assert told["passes"] == 22
    assert told["drop"] > 2
    assert "'star'" in told["text"]


async def test_what_is_hidden_is_shown(client: httpx.AsyncClient) -> None:
    """Where the map is hottest the picture is another one, and where it is coldest it is as it was."""
    (found,) = await explain(client, output=["map", "hidden"], image_format="png")
    assert found["verification"] is None
    hidden = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["hidden"]["data"]))).convert("RGB"), int)
    picture = np.asarray(Image.open(io.BytesIO(star())).convert("RGB"), int)
    assert hidden.shape == picture.shape
    changed = np.abs(hidden - picture).max(2)
    assert changed[int(found["peak"]["y"]), int(found["peak"]["x"])] > 20
    assert 0.02 < (changed > 0).mean() < 0.3
    assert not changed[:20, :20].any()


@pytest.mark.parametrize("size", ["picture", "model", "layer"])
@pytest.mark.parametrize("image_format", ["auto", "png", "jpeg", "webp"])
async def test_what_is_hidden_comes_in_every_size_and_format(
    client: httpx.AsyncClient, size: str, image_format: str
) -> None:
    (found,) = await explain(client, output="hidden", size=size, image_format=image_format)
    side = {"picture": 192, "model": 96, "layer": 12}[size]
    assert (found["hidden"]["width"], found["hidden"]["height"]) == (side, side)
    kind = "jpeg" if image_format == "auto" else image_format
    assert found["hidden"]["media_type"] == f"image/{kind}"
