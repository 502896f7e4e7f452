"""TorchServe's inference API and the readable part of its management API, as clients see them."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.settings import KeyConfig, ModelConfig
from service.web.keys import digest_of
from tests.toys import png
from tests.web.application import PETS, faked, until

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

PICTURE = png(size=(60, 40))
B64 = base64.b64encode(PICTURE).decode()
PREDICT, EXPLAIN = "/predictions/pets", "/explanations/pets"
MAP = np.arange(16).reshape(4, 4).tolist()


def says(response: httpx.Response, status: int, kind: str, *words: str) -> None:
    """The response is an error in TorchServe's words, and nothing else."""
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert (response.status_code, answer["code"], answer["type"]) == (status, status, kind), response.text
    assert list(answer) == ["code", "type", "message"]
    for word in words:
        assert word in answer["message"]


# -- inference --------------------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "the body": {"content": PICTURE},
    "the body of curl --data-binary": {
        "content": PICTURE,
        "headers": {"Content-Type": "application/x-www-form-urlencoded"},
    },
    "a form": {"files": {"data": ("a.png", PICTURE)}},
    "a form with another name": {"files": {"whatever": ("a.png", PICTURE)}},
    "a form without a filename": {"files": {"data": (None, PICTURE, "application/octet-stream")}},
    "JSON": {"json": {"data": B64}},
    "JSON, nested": {"json": {"body": {"b64": f"data:image/png;base64,{B64}"}}},
    "JSON with null": {"json": {"data": B64, "target": None, "top_k": None}},
}


@pytest.mark.parametrize("sent", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_picture_is_classified(client: httpx.AsyncClient, method: str, sent: dict[str, Any]) -> None:
    for path in (PREDICT, f"{PREDICT}/1"):
        response = await client.request(method, path, **sent)
        assert response.status_code == 200, response.text
        found = response.json()
        assert list(found) == ["dog", "owl", "cat"]
        assert found["dog"] == pytest.approx(0.665, abs=0.001)


async def test_predictions_need_no_gradient(application: Application, client: httpx.AsyncClient) -> None:
    found = (await client.post(f"{PREDICT}?top_k=1&target=cat", content=PICTURE)).json()
    assert list(found) == ["dog"]
    assert application.metric("camserve_batch_size_count", model="pets", op="predict") == 1
    assert application.metric("camserve_batch_size_count", model="pets", op="explain") == 0


async def test_classes_that_share_a_label_are_both_there() -> None:
    known = replace(PETS, labels=("cat", "crane", "crane"))
    async with faked(known=known) as application, application.client() as client:
        assert set((await client.post(PREDICT, content=PICTURE)).json()) == {"crane #1", "crane #2", "cat"}


@pytest.mark.parametrize("sent", WAYS.values(), ids=WAYS)
async def test_an_explanation_is_rows_of_numbers(client: httpx.AsyncClient, sent: dict[str, Any]) -> None:
    for path in (EXPLAIN, f"{EXPLAIN}/1"):
        assert (await client.post(path, **sent)).json() == MAP


@pytest.mark.parametrize(("size", "shape"), [("model", (32, 32)), ("picture", (40, 60)), ("layer", (4, 4))])
async def test_size_enlarges_it(client: httpx.AsyncClient, size: str, shape: tuple[int, int]) -> None:
    response = await client.post(EXPLAIN, files={"data": ("a.png", PICTURE)}, data={"size": size})
    assert np.shape(response.json()) == shape


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", "image/png", "png"),
        ("", "image/webp", "webp"),
        ("?format=jpeg", "*/*", "jpeg"),
        ("?format=png", "*/*", "png"),
    ],
)
async def test_or_a_picture(client: httpx.AsyncClient, query: str, accept: str, kind: str) -> None:
    response = await client.post(f"{EXPLAIN}{query}", content=PICTURE, headers={"Accept": accept})
    assert response.headers["Content-Type"] == f"image/{kind}"
    assert Image.open(io.BytesIO(response.content)).size == (60, 40)


@pytest.mark.parametrize("where", ["query", "form", "json"])
async def test_options_stand_where_they_are_found(client: httpx.AsyncClient, where: str) -> None:
    wrong = {"target": "horse"}
    sent: dict[str, dict[str, Any]] = {
        "query": {"content": PICTURE, "params": wrong},
        "form": {"files": {"data": ("a.png", PICTURE)}, "data": wrong},
        "json": {"json": {"data": B64, **wrong}},
    }
    says(await client.post(EXPLAIN, **sent[where]), 422, "BadRequestException", "horse")
    sent["query"]["params"] = {"target": "owl", "layer": "conv1"}
    assert (await client.post(EXPLAIN, **sent["query"])).json() == MAP


# -- ping and management ----------------------------------------------------------------------------------------------


async def test_ping(application: Application, client: httpx.AsyncClient) -> None:
    response = await client.get("/ping")
    assert (response.status_code, response.json()) == (200, {"status": "Healthy"})
    await application.lifecycle.drain()
    response = await client.get("/ping")
    assert (response.status_code, response.json()) == (500, {"status": "Unhealthy"})


async def test_models_are_listed_page_by_page() -> None:
    models = [ModelConfig(name=name, architecture="shapes") for name in ("a", "b", "c")]
    async with faked(models=tuple(models)) as application, application.client() as client:
        first = (await client.get("/models?limit=2")).json()
        assert first == {"nextPageToken": "2", "models": [{"modelName": name, "modelUrl": "shapes"} for name in "ab"]}
        second = (await client.get(f"/models?limit=2&next_page_token={first['nextPageToken']}")).json()
        assert second == {"models": [{"modelName": "c", "modelUrl": "shapes"}]}
        assert (await client.get("/models?next_page_token=9")).json() == {"models": []}
        for query in ("limit=0", "limit=x", "next_page_token=-1"):
            says(await client.get(f"/models?{query}"), 422, "BadRequestException")


async def test_a_model_is_described(application: Application, client: httpx.AsyncClient) -> None:
    for path in ("/models/pets", "/models/pets/1", "/models/pets/all"):
        (entry,) = (await client.get(path)).json()
        assert (entry["modelName"], entry["modelVersion"], entry["modelUrl"]) == ("pets", "1", "shapes")
        assert (entry["minWorkers"], entry["maxBatchDelay"]) == (1, 0)
        assert [worker["status"] for worker in entry["workers"]] == ["READY"]
        assert entry["jobQueueStatus"] == {"remainingCapacity": 128, "pendingRequests": 0}
    says(await client.get("/models/pet"), 404, "ModelNotFoundException", "'pets'", "GET /models")
    says(await client.get("/models/pets/2"), 404, "ModelVersionNotFoundException", "/models/pets/all")


@pytest.mark.parametrize(("method", "path"), [("POST", "/models"), ("PUT", "/models/pets"), ("DELETE", "/models/pets")])
async def test_models_are_not_changed(client: httpx.AsyncClient, method: str, path: str) -> None:
    says(await client.request(method, path), 405, "MethodNotAllowedException")


async def test_keys_and_draining() -> None:
    keys = (KeyConfig(name="asks", sha256=digest_of("asks")),)
    async with faked(keys=keys) as application, application.client() as client:
        for method in ("POST", "PUT"):
            says(await client.request(method, PREDICT, content=PICTURE), 401, "InvalidKeyException", "API key")
        says(await client.get("/models"), 401, "InvalidKeyException")
        assert (await client.get("/ping")).status_code == 200
        headers = {"Authorization": "Bearer asks"}
        for method in ("POST", "PUT"):
            assert (await client.request(method, EXPLAIN, content=PICTURE, headers=headers)).status_code == 200
        (entry,) = (await client.get("/models/pets", headers=headers)).json()
        assert entry["workers"] == [], "whoever may not manage learns nothing of processes"
        await application.lifecycle.drain()
        says(await client.post(PREDICT, content=PICTURE, headers=headers), 503, "ServiceUnavailableException")


async def test_a_model_that_is_loading_is_unhealthy(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.load_outcome = lambda *_: None
    application.worker.lose("pets")
    await until(lambda: application.pool.status("pets").state != "ready")
    assert (await client.get("/ping")).status_code == 500
    says(await client.post(PREDICT, content=PICTURE), 503, "ServiceUnavailableException", "pets")


# -- what is refused --------------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({}, 400, "empty"),
    "no picture": ({"content": b"QUJD"}, 400, "not a picture"),
    "an empty form": ({"files": {"data": (None, "text")}}, 400, "with the @"),
    "two files": ({"files": [("data", ("a", PICTURE)), ("data", ("b", PICTURE))]}, 413, "several files"),
    "a form without a boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "no JSON": ({"content": b"{", "headers": JSON}, 400, "not JSON"),
    "JSON in Latin-1": ({"content": b'{"data": "\xe9"}', "headers": JSON}, 400, "not JSON"),
    "a list": ({"content": b"[]", "headers": JSON}, 400, "JSON object"),
    "no data": ({"json": {"target": 1}}, 400, '"data"'),
    "data of pixels": ({"json": {"data": [[1]]}}, 400, '"data"'),
    "no base64": ({"json": {"data": "!"}}, 400, "'data'"),
    "many values": ({"json": {"data": list(range(20_000))}}, 413, "as files"),
    "NaN": ({"content": b'{"data": "", "alpha": NaN}', "headers": JSON}, 400, "not JSON"),
    "a huge alpha": ({"content": b'{"data": "QUJD", "alpha": 1e999}', "headers": JSON}, 422, "alpha"),
    "an unknown option": ({"content": PICTURE, "params": {"tarjet": "cat"}}, 422, "'target'"),
    "a format": ({"content": PICTURE, "params": {"format": "gif"}}, 422, "png"),
    "two targets": ({"json": {"data": B64, "target": ["cat", "dog"]}}, 422, "one layer"),
    "an output": ({"content": PICTURE, "params": {"output": "mask"}}, 422, "'format'"),
    "scores": ({"content": PICTURE, "params": {"scores": "true"}}, 422, "/api/v1"),
    "a region": ({"json": {"data": B64, "region": [0, 0, 9, 9]}}, 422, "/api/v1"),
    "an unknown layer": ({"content": PICTURE, "params": {"layer": "conv3"}}, 422, "pets/layers lists"),
    "the best two": ({"content": PICTURE, "params": {"target": "top-2"}}, 422, "one layer"),
    "a large map": ({"content": png(size=(1000, 900)), "params": {"size": "picture"}}, 413, "'max_side'"),
    "a compressed body": ({"content": PICTURE, "headers": {"Content-Encoding": "gzip"}}, 415, "gzip"),
}


@pytest.mark.parametrize(("sent", "status", "word"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said(client: httpx.AsyncClient, sent: dict[str, Any], status: int, word: str) -> None:
    kind = "RequestEntityTooLargeException" if status == 413 else "BadRequestException"
    says(await client.post(EXPLAIN, **sent), status, kind, word)


async def test_unknown_models_and_paths(client: httpx.AsyncClient) -> None:
    says(await client.post("/predictions/dogs", content=PICTURE), 404, "ModelNotFoundException", "dogs")
    says(await client.post(f"{PREDICT}/7", content=PICTURE), 404, "ModelVersionNotFoundException")
    says(await client.get("/predictions"), 404, "ResourceNotFoundException")
