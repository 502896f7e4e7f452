"""Every route answers with the fields that the contract names."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.cam.methods import METHODS
from service.engine.answers import Answer, StageTimes
from service.engine.cost import Cost
from service.imaging.colormaps import COLORMAPS
from service.protocols.native import routes
from service.wire import MethodEntry
from tests.protocols.native.pictures import STAR, array, ask, explain, opened, star, wide

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

pytestmark = pytest.mark.asyncio(loop_scope="session")

IMAGE = {"Content-Type": "image/png"}
TIMES = {"total_ms", "decode_ms", "queue_ms", "compute_ms", "render_ms"}
EXPLANATION = {
    "layer": str,
    "method": str,
    "target": dict,
    "against": type(None),
    "empty": bool,
    "reason": type(None),
    "note": type(None),
    "signed": bool,
    "minimum": float,
    "maximum": float,
    "sum": float,
    "peak": dict,
    "heatmap": dict,
    "overlay": type(None),
    "mask": type(None),
    "map": type(None),
    "regions": type(None),
    "hidden": type(None),
    "scores": type(None),
    "verification": type(None),
}


def types(body: dict[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in body.items()}


# -- explain ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "model"), [("/api/v1/explain", "shapes"), ("/api/v1/models/shapes-shortcut/explain", "shapes-shortcut")]
)
async def test_explain(client: httpx.AsyncClient, path: str, model: str) -> None:
    response = await client.post(path, files={"image": ("star.png", star())}, headers={"X-Request-ID": "mine"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert list(body) == ["id", "model", "results", "timing", "cost", "precision"]
    assert body["id"] == response.headers["X-Request-ID"] == "mine"
    assert body["model"]["name"] == model
    assert types(body["model"]) == {"name": str, "version": str}

    (result,) = body["results"]
    assert list(result) == ["image", "view", "predictions", "scores", "explanations", "error"]
    digest = hashlib.sha256(star()).hexdigest()
    assert result["image"] == {"index": 0, "filename": "star.png", "width": 192, "height": 192, "sha256": digest}
    assert result["view"] == {"left": 0, "top": 0, "right": 192, "bottom": 192}
    assert result["error"] is None
    assert [entry["rank"] for entry in result["predictions"]] == [1, 2, 3, 4, 5]
    assert types(result["predictions"][0]) == {
        "rank": int,
        "index": int,
        "label": str,
        "probability": float,
        "logit": float,
    }

    (explanation,) = result["explanations"]
    assert types(explanation) == EXPLANATION
    assert (explanation["layer"], explanation["method"]) == ("layer4", "gradcam")
    best = dict(result["predictions"][0])
    del best["rank"]
    assert explanation["target"] == best
    assert explanation["empty"] is False
    assert explanation["maximum"] > 0
    assert types(explanation["peak"]) == {"x": float, "y": float}
    assert types(explanation["heatmap"]) == {"media_type": str, "width": int, "height": int, "data": str}
    opened(explanation["heatmap"])


async def test_what_the_model_knows_is_right(client: httpx.AsyncClient) -> None:
    result = await explain(client, wide(), top_k=12)
    assert result["predictions"][0]["index"] == STAR
    assert result["predictions"][0]["label"] == "star"
    logits = [entry["logit"] for entry in result["predictions"]]
    probabilities = [entry["probability"] for entry in result["predictions"]]
    assert logits == sorted(logits, reverse=True)
    assert sorted(entry["index"] for entry in result["predictions"]) == list(range(12))
    np.testing.assert_allclose(probabilities, np.exp(logits) / np.exp(logits).sum(), rtol=1e-6)
    assert sum(probabilities) == pytest.approx(1)


async def test_the_view_is_what_the_model_saw_of_the_upright_picture(client: httpx.AsyncClient) -> None:
    result = await explain(client, wide())
    assert (result["image"]["width"], result["image"]["height"]) == (320, 192)
    assert result["view"] == {"left": 64, "top": 0, "right": 256, "bottom": 192}


async def test_the_peak_is_the_hottest_cell_in_the_pixels_of_the_picture(client: httpx.AsyncClient) -> None:
    result = await explain(client, wide(), output=["map"])
    (explanation,) = result["explanations"]
    raw = array(explanation["map"])
    assert raw.shape == (12, 12)
    row, column = np.unravel_index(raw.argmax(), raw.shape)
    # The view is 192 pixels wide, twice the model's input, and begins at 64.
    layers = (await client.get("/api/v1/models/shapes/layers")).json()["layers"]
    (place,) = [layer["placement"] for layer in layers if layer["name"] == "layer4"]
    x, y = place["x"][0] + column * place["x"][1], place["y"][0] + row * place["y"][1]
    assert explanation["peak"] == {"x": pytest.approx(64 + 2 * x), "y": pytest.approx(2 * y)}


async def test_the_map_is_raw_little_endian_and_in_c_order(client: httpx.AsyncClient) -> None:
    (explanation,) = (await explain(client, layer=["layer2"], output=["map"]))["explanations"]
    raw = array(explanation["map"])
    assert explanation["map"]["shape"] == [24, 24]
    assert raw.shape == (24, 24)
    assert np.isfinite(raw).all()
    assert raw.min() >= 0
    assert float(raw.max()) == explanation["maximum"]
    # Read the other way round the numbers are nonsense.
    assert not np.array_equal(raw.astype(">f4").view("<f4"), raw)


async def test_explanations_nest_layers_methods_targets(client: httpx.AsyncClient) -> None:
    layers, methods, targets = ["layer4", "layer2", "layer3"], list(METHODS)[:3], [5, "top-2", "star"]
    result = await explain(client, layer=layers, method=methods, target=targets)
    ranking = [entry["index"] for entry in result["predictions"]]
    expected = [(layer, method, index) for layer in layers for method in methods for index in [5, *ranking[:2], STAR]]
    found = [(each["layer"], each["method"], each["target"]["index"]) for each in result["explanations"]]
    assert found == expected


async def test_results_come_in_the_order_of_the_pictures(client: httpx.AsyncClient) -> None:
    sent = [("image", (f"{index}.png", data)) for index, data in enumerate([star(), wide(), star(), wide()])]
    body = (await client.post("/api/v1/explain", files=sent)).json()
    assert [result["image"]["index"] for result in body["results"]] == [0, 1, 2, 3]
    assert [result["image"]["filename"] for result in body["results"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert [result["image"]["width"] for result in body["results"]] == [192, 320, 192, 320]
    assert 1 <= body["timing"]["batch_size"] <= 4


async def test_the_timing_adds_up(client: httpx.AsyncClient) -> None:
    timing = (await ask(client)).json()["timing"]
    assert set(timing) == {*TIMES, "batch_size"}
    assert timing["batch_size"] == 1
    assert all(timing[name] >= 0 for name in TIMES)
    assert timing["compute_ms"] > 0
    parts = sum(timing[name] for name in TIMES - {"total_ms"})
    assert parts <= timing["total_ms"] + 0.1


async def test_the_timing_of_several_images_is_that_of_the_slowest_in_each_stage(
    application: Application, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = application.explainer.answer

    async def timed(*arguments: Any) -> Answer:
        found = await answer(*arguments)
        times = [StageTimes(0.001, 0.020, 0.3, 0.4, 1), StageTimes(0.002, 0.010, 0.1, 0.5, 2)]
        images = zip(found.images, times, strict=True)
        return replace(found, images=tuple(replace(picture, times=each) for picture, each in images), total_s=0.9)

    monkeypatch.setattr(application.explainer, "answer", timed)
    files = [("image", ("a.png", star())), ("image", ("b.png", star()))]
    assert (await client.post("/api/v1/explain", files=files)).json()["timing"] == {
        "total_ms": 900,
        "decode_ms": 2,
        "queue_ms": 20,
        "compute_ms": 300,
        "render_ms": 500,
        "batch_size": 2,
    }


async def test_answers_do_not_change_from_call_to_call(client: httpx.AsyncClient) -> None:
    options: dict[str, Any] = {"layer": ["layer3"], "target": ["top-2"], "output": ["heatmap", "map", "regions"]}
    assert await explain(client, **options) == await explain(client, **options)


async def test_a_large_answer_is_the_same_in_pieces(
    client: httpx.AsyncClient, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        ("image", ('"explanations":[].png', star())),
        ("image", ("b.png", b"no picture")),
        ("image", ("c", wide())),
    ]
    query = {"target": "top-3", "output": ["overlay", "map", "regions"]}
    the_same = {"X-Request-ID": "mine"}
    at_once = await client.post("/api/v1/explain", params=query, files=files, headers=the_same)
    monkeypatch.setattr(routes, "AT_ONCE_BYTES", 0)
    in_pieces = await client.post("/api/v1/explain", params=query, files=files, headers=the_same)
    assert "content-length" in at_once.headers
    assert "content-length" not in in_pieces.headers
    one, other = at_once.json(), in_pieces.json()
    assert one["results"] == other["results"]
    assert [*one] == [*other]
    assert other["timing"]["compute_ms"] > 0
    assert application.explainer.admission.cost == Cost()


# -- predict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/v1/predict", "/api/v1/models/shapes/predict"])
async def test_predict_gives_what_explain_predicts(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(f"{path}?top_k=3", content=wide(), headers=IMAGE)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["id", "model", "results", "timing", "cost", "precision"]
    (predicted,) = body["results"]
    explained = await explain(client, wide(), top_k=3)
    assert predicted["explanations"] == []
    assert predicted["image"] == explained["image"]
    assert predicted["view"] == explained["view"]
    for one, other in zip(predicted["predictions"], explained["predictions"], strict=True):
        assert (one["rank"], one["index"], one["label"]) == (other["rank"], other["index"], other["label"])
        assert one["logit"] == pytest.approx(other["logit"], abs=1e-4)


@pytest.mark.parametrize("option", ["layer=layer4", "target=star", "output=map", "alpha=1", "against=disk"])
async def test_predict_refuses_the_options_of_explain(client: httpx.AsyncClient, option: str) -> None:
    response = await client.post(f"/api/v1/predict?{option}", content=star(), headers=IMAGE)
    assert response.status_code == 422
    assert option.partition("=")[0] in response.json()["detail"]


# -- what there is ----------------------------------------------------------------------------------------------------


async def test_models(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/models")).json()
    assert body["default"] == "shapes"
    assert [entry["name"] for entry in body["models"]] == ["shapes", "shapes-shortcut"]
    assert [entry["default"] for entry in body["models"]] == [True, False]
    for entry in body["models"]:
        assert (await client.get(f"/api/v1/models/{entry['name']}")).json() == entry


async def test_model(client: httpx.AsyncClient) -> None:
    entry = (await client.get("/api/v1/models/shapes")).json()
    version = entry.pop("version")
    assert isinstance(version, str)
    assert version
    parameters = entry.pop("parameters")
    assert parameters > 100_000
    assert entry.pop("memory_bytes") >= 4 * parameters
    assert re.fullmatch("[0-9a-f]{64}", entry.pop("digest"))
    assert entry.pop("parts") in range(1, 9)
    entry.pop("parts_reason")  # hangs on the machine, and on whether it is known yet
    (only,) = entry.pop("versions")
    assert (only["version"], only["state"], only["current"]) == (version, "ready", True)
    assert entry == {
        "name": "shapes",
        "source": "embedded",
        "precision": "float32",
        "precision_asked": "float32",
        "precision_reason": None,
        "precision_check": None,
        "folded": True,
        "folded_reason": None,
        "state": "ready",
        "reason": None,
        "default": True,
        "architecture": "shapes",
        "input": {"height": 96, "width": 96},
        "preprocessing": {
            "mode": "crop",
            "resize": 96,
            "interpolation": "bilinear",
            "decoding": "full",
            "scale": 1 / 255,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "classes": 12,
        "default_layer": "layer4",
        "methods": [name for name in METHODS if name not in {"attention_rollout", "legrad"}],
        "refused_methods": dict.fromkeys(
            ["attention_rollout", "legrad"],
            "it needs a transformer: no attention among tokens is seen in this network",
        ),
        "channels": 3,
        "order": "RGB",
        "prompts": None,
        "activation": "softmax",
        "multi_label": False,
        "heads": {},
        "default_head": None,
        "device": "cpu",
        "dtype": "float32",
        "warnings": [],
    }


async def test_layers(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/models/shapes/layers")).json()
    assert list(body) == ["model", "input", "default", "layers"]
    assert (body["model"], body["input"], body["default"]) == ("shapes", {"height": 96, "width": 96}, "layer4")
    rows = {row["name"]: row for row in body["layers"]}
    orders = [row["order"] for row in body["layers"]]
    assert len(rows) == len(body["layers"])
    assert orders == sorted(orders)
    assert rows["layer4"] == {
        "name": "layer4",
        "type": "Sequential",
        "kind": "block",
        "shape": [80, 12, 12],
        "stride": 8,
        "order": rows["layer4"]["order"],
        "explainable": True,
        "recommended": True,
        "placement": rows["layer4"]["placement"],
        "note": None,
    }
    assert rows["layer4"]["placement"]["by"] == "measured"
    assert [name for name, row in rows.items() if row["recommended"]] == ["layer2", "layer4"]
    assert "1×1" in rows["avgpool"]["note"]
    assert all(row["note"] for row in rows.values() if not row["explainable"])


async def test_layers_can_be_filtered(client: httpx.AsyncClient) -> None:
    path = "/api/v1/models/shapes/layers"
    everything = (await client.get(path)).json()["layers"]
    for kind in {row["kind"] for row in everything}:
        for explainable in (True, False):
            query = {"kind": kind, "explainable": str(explainable).lower()}
            found = (await client.get(path, params=query)).json()["layers"]
            assert found == [row for row in everything if (row["kind"], row["explainable"]) == (kind, explainable)]
    assert (await client.get(path, params={"kind": "attention"})).json()["layers"] == []


async def test_every_layer_is_explained_or_refused_as_the_catalogue_says(client: httpx.AsyncClient) -> None:
    rows = (await client.get("/api/v1/models/shapes/layers")).json()["layers"]
    for row in rows:
        response = await ask(client, layer=[row["name"]], output=["map"])
        if row["explainable"]:
            (only,) = response.json()["results"][0]["explanations"]
            assert only["map"]["shape"] == row["shape"][1:]
        else:
            assert response.status_code == 422
            assert response.json()["code"] == "layer_not_explainable"
            assert row["note"] in response.json()["detail"]


async def test_classes(client: httpx.AsyncClient) -> None:
    path = "/api/v1/models/shapes/classes"
    body = (await client.get(path)).json()
    assert (body["model"], body["total"]) == ("shapes", 12)
    assert [entry["index"] for entry in body["classes"]] == list(range(12))
    assert body["classes"][STAR] == {"index": 3, "label": "star"}

    async def search(**query: Any) -> list[str]:
        return [entry["label"] for entry in (await client.get(path, params=query)).json()["classes"]]

    assert await search(q="star") == ["star"]
    assert await search(q="STAR") == ["star"]
    assert await search(q="s", limit=3) == ["square", "star", "disk"], "those that begin with it come first"
    assert await search(q="no such shape") == []
    assert len(await search(limit=5)) == 5
    refused = await client.get(path, params={"head": "fine"})
    assert (refused.status_code, refused.json()["code"]) == (422, "unknown_head")


async def test_methods(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/methods")).json()
    assert body["default"] == "gradcam"
    assert [entry["name"] for entry in body["methods"]] == list(METHODS)
    for entry in body["methods"]:
        row = METHODS[entry.pop("name")]
        assert entry == {name: getattr(row, name) for name in entry}
        assert set(entry) == set(MethodEntry.model_fields) - {"name"}


async def test_colormaps(client: httpx.AsyncClient) -> None:
    body = (await client.get("/api/v1/colormaps")).json()
    tables = [base64.b64decode(entry.pop("table")) for entry in body["colormaps"]]
    assert tables == [row.table.tobytes() for row in COLORMAPS.values()]
    assert body == {
        "default": "turbo",
        "colormaps": [{"name": name, "kind": row.kind} for name, row in COLORMAPS.items()],
    }


@pytest.mark.parametrize("path", ["", "/layers", "/classes"])
async def test_an_unknown_model_is_a_404_with_suggestions(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/api/v1/models/shape{path}")
    assert response.status_code == 404
    assert response.json()["suggestions"][0] == "shapes"
