"""KServe's V1 protocol, and Vertex AI's shape of explanations, as clients see it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.settings import KeyConfig
from service.web.keys import digest_of
from tests.toys import png
from tests.web.application import Exchange, faked, until

if TYPE_CHECKING:
    import httpx

    from tests.web.application import Application

PICTURE = png()
B64 = base64.b64encode(PICTURE).decode()
PREDICT, EXPLAIN = "/v1/models/pets:predict", "/v1/models/pets:explain"


async def ask(client: httpx.AsyncClient, path: str, *instances: Any, **parameters: Any) -> dict[str, Any]:
    body = {"instances": list(instances), **({"parameters": parameters} if parameters else {})}
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def says(response: httpx.Response, status: int, *words: str) -> None:
    """The response is an error in V1's words, and nothing else."""
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert (response.status_code, list(body)) == (status, ["error"]), response.text
    for word in words:
        assert word in body["error"]


def overlay(answer: dict[str, Any], index: int = 0) -> Image.Image:
    image = answer["explanations"][index]["attributions"][0]["featureAttributions"]["image"]
    return Image.open(io.BytesIO(base64.b64decode(image["b64_jpeg"])))


# -- what is answered -------------------------------------------------------------------------------------------------


async def test_models_are_listed_and_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models")).json() == {"models": ["pets"]}
    assert (await client.get("/v1/models/pets")).json() == {"name": "pets", "ready": True}
    assert (await client.get("/v1/models/pets/versions/1")).json() == {"name": "pets", "ready": True}
    says(await client.get("/v1/models/pet"), 404, "'pets'", "GET /v1/models")
    says(await client.get("/v1/models/pets/versions/2"), 404, "version")


@pytest.mark.parametrize(
    ("accept", "alive"),
    [
        ("application/json", True),
        ("application/json, text/html;q=0.9", True),
        ("text/html,application/json;q=0.9", False),
        ("*/*", False),
    ],
)
async def test_the_root_says_alive_to_whoever_asks_for_json(
    client: httpx.AsyncClient, accept: str, alive: bool
) -> None:
    response = await client.get("/", headers={"Accept": accept})
    assert response.status_code == 200
    assert (response.headers["Content-Type"] == "application/json") == alive
    assert not alive or response.json() == {"status": "alive"}


async def test_a_model_that_is_loading_is_not_ready() -> None:
    async with faked() as application, application.client() as client:
        application.worker.load_outcome = lambda *_: None
        application.worker.lose("pets")
        await until(lambda: application.pool.status("pets").state != "ready")
        says(await client.get("/v1/models/pets"), 503, "pets")


INSTANCES = {
    "KServe": {"image": {"b64": B64}},
    "TensorFlow Serving": {"image_bytes": {"b64": B64}, "key": "a"},
    "TensorFlow Serving, by the input's name": {"input_1": {"b64": B64}},
    "TorchServe": {"data": B64, "target": 0},
    "Vertex AI": {"content": B64, "mimeType": "image/png"},
    "b64": {"b64": B64},
    "base64 alone": B64,
    "a data URI": f"data:image/png;base64,{B64}",
    "a data URI in capitals": f"DATA:image/png;BASE64,{B64}",
    "pixels": np.asarray(Image.open(io.BytesIO(PICTURE)).convert("RGB")).tolist(),
    "pixels, by name": {"data": np.asarray(Image.open(io.BytesIO(PICTURE)).convert("RGB")).tolist()},
}


@pytest.mark.parametrize("instance", INSTANCES.values(), ids=INSTANCES)
async def test_a_picture_may_come_as_any_of_their_samples_has_it(client: httpx.AsyncClient, instance: Any) -> None:
    answer = await ask(client, PREDICT, instance)
    (prediction,) = answer["predictions"]
    assert prediction["displayNames"] == ["dog", "owl", "cat"]
    assert prediction["ids"] == ["1", "2", "0"]
    assert prediction["confidences"] == [each["probability"] for each in prediction["classes"]]
    assert prediction.get("key") == (instance.get("key") if isinstance(instance, dict) else None)
    assert (answer["deployedModelId"], answer["modelVersionId"]) == ("pets", "1")


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 1)])
async def test_grey_pixels_are_a_picture(client: httpx.AsyncClient, shape: tuple[int, ...]) -> None:
    answer = await ask(client, EXPLAIN, np.full(shape, 200.4).tolist())
    assert overlay(answer).size == (50, 40)


async def test_explanations_come_with_predictions_in_vertex_ais_shape(client: httpx.AsyncClient) -> None:
    answer = await ask(client, EXPLAIN, {"image": {"b64": B64}})
    (attribution,) = answer["explanations"][0]["attributions"]
    assert (attribution["outputIndex"], attribution["outputDisplayName"]) == ([1], "dog")
    assert attribution["instanceOutputValue"] == 3.0
    assert (attribution["layer"], attribution["method"]) == ("conv2", "gradcam")
    assert overlay(answer).size == Image.open(io.BytesIO(PICTURE)).size
    assert answer["predictions"][0]["displayNames"][0] == "dog"


async def test_options_of_an_instance_win_over_those_of_all(client: httpx.AsyncClient) -> None:
    answer = await ask(
        client,
        EXPLAIN,
        {"b64": B64, "target": "cat", "layer": "conv1"},
        {"b64": B64, "class_id": 2, "top_k": 1},
        {"b64": B64},
        target="owl",
        top_k=2,
        output=["map"],
    )
    found = [each["attributions"][0] for each in answer["explanations"]]
    assert [each["outputDisplayName"] for each in found] == ["cat", "owl", "owl"]
    assert [each["layer"] for each in found] == ["conv1", "conv2", "conv2"]
    assert [len(each["classes"]) for each in answer["predictions"]] == [2, 1, 2]
    values = np.frombuffer(base64.b64decode(found[0]["map"]["data"]), "<f4").reshape(found[0]["map"]["shape"])
    assert values.tolist() == np.arange(16).reshape(4, 4).tolist()


async def test_what_is_asked_for_is_there(client: httpx.AsyncClient) -> None:
    answer = await ask(client, EXPLAIN, B64, output=["heatmap", "mask", "regions"], threshold=0.5)
    (attribution,) = answer["explanations"][0]["attributions"]
    assert attribution["featureAttributions"]["image"] == {}
    assert attribution["heatmap"]["media_type"] == "image/png"
    assert base64.b64decode(attribution["mask"]["data"])[1:4] == b"PNG"
    assert attribution["regions"][0]["score"] == 1.0


async def test_scores_are_there_where_they_are_asked_for(client: httpx.AsyncClient) -> None:
    boxes = [[0, 0, 1000, 1000], [[0, 0], [1000, 0], [1000, 1000]], "[0, 0, 1000, 1000]"]
    instances = [{"b64": B64, "region": region} for region in boxes]
    answer = await ask(client, EXPLAIN, *instances, instances[0], {"b64": B64}, output=["scores"])
    found = [each["attributions"][0]["scores"] for each in answer["explanations"]]
    assert [found[index]["mass_inside"] for index in (0, 2, 3)] == 3 * [pytest.approx(1)]
    assert 0 < found[1]["mass_inside"] < 1
    assert found[4]["mass_inside"] is None
    assert answer["predictions"][0]["scores"]["margin"] == pytest.approx(found[0]["margin"])
    (prediction,) = (await ask(client, PREDICT, B64, scores=True))["predictions"]
    best, second = prediction["confidences"][:2]
    assert prediction["scores"]["margin"] == pytest.approx(best - second)
    assert "scores" not in (await ask(client, PREDICT, B64))["predictions"][0]


async def test_maps_are_put_to_the_proof_where_that_is_asked_for(client: httpx.AsyncClient) -> None:
    (attribution,) = (await ask(client, EXPLAIN, B64, verify=True))["explanations"][0]["attributions"]
    told = attribution["verification"]
    native = (
        await client.post(
            "/api/v1/explain", params={"verify": "true"}, content=PICTURE, headers={"content-type": "image/png"}
        )
    ).json()
    assert told == native["results"][0]["explanations"][0]["verification"]


async def test_vertex_ais_parameters_are_understood(client: httpx.AsyncClient) -> None:
    answer = await ask(client, PREDICT, B64, maxPredictions=2, confidenceThreshold=0.5)
    assert answer["predictions"][0]["displayNames"] == ["dog"]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", "text/plain", ""])
async def test_whatever_the_content_type_says_it_is_json(client: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post(PREDICT, content=json.dumps({"instances": [B64]}), headers=headers)
    assert response.status_code == 200


# -- what fails alone -------------------------------------------------------------------------------------------------


async def test_an_instance_that_fails_fails_alone(client: httpx.AsyncClient) -> None:
    bad = ["QUJD", "no base64!", {"b64": B64, "layer": "conv3"}, {"b64": B64, "foo": 1}, {"nothing": 1}, 5]
    answer = await ask(client, EXPLAIN, B64, *bad, {"b64": B64, "key": 7})
    predictions, explanations = answer["predictions"], answer["explanations"]
    failed = [False, *6 * [True], False]
    assert [list(each) == ["error"] for each in predictions] == failed
    assert [list(each) == ["error"] for each in explanations] == failed
    assert predictions[-1]["key"] == 7
    assert "conv2" in predictions[3]["error"]
    assert "'foo'" in predictions[4]["error"]
    assert "'instances.5'" in predictions[5]["error"]


async def test_if_all_fail_so_does_the_request(client: httpx.AsyncClient) -> None:
    says(await client.post(PREDICT, json={"instances": ["QUJD", "QUJD"]}), 400, "picture")
    says(await client.post(EXPLAIN, json={"instances": [{"b64": B64, "layer": "conv3"}]}), 422, "conv3")


# -- that it is the same engine ---------------------------------------------------------------------------------------


async def test_instances_of_one_request_are_one_batch(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    first = asyncio.create_task(ask(client, EXPLAIN, B64))
    await until(lambda: application.worker.running)
    targets = ("cat", "dog", "owl", "predicted")
    others = asyncio.create_task(ask(client, EXPLAIN, *({"b64": B64, "target": target} for target in targets)))
    await until(lambda: application.metric("camserve_queue_depth") == 4)
    application.worker.held = False
    application.worker.finish()
    await asyncio.gather(first, others)
    assert application.metric("camserve_batch_size_sum", model="pets", op="explain") == 5
    assert application.metric("camserve_batch_size_count", model="pets", op="explain") == 2


async def test_predictions_need_no_gradient(application: Application, client: httpx.AsyncClient) -> None:
    await ask(client, PREDICT, {"b64": B64, "target": "cat", "layer": "conv1"})
    assert application.metric("camserve_batch_size_count", model="pets", op="predict") == 1
    assert application.metric("camserve_batch_size_count", model="pets", op="explain") == 0


async def test_costs_of_instances_with_options_of_their_own_are_added_up() -> None:
    limit = "forward=10,pixels=1000000,bytes=1000000"
    async with faked(max_request_cost=limit) as application, application.client() as client:
        costly = [{"b64": B64, "smooth": 2, "target": target} for target in ("cat", "dog", "owl")]
        assert (await client.post(EXPLAIN, json={"instances": costly[:1]})).status_code == 200
        says(await client.post(EXPLAIN, json={"instances": costly}), 413, "passes", "Lower 'image' from 3 to")


async def test_keys_drain_and_routes_are_those_of_every_protocol() -> None:
    keys = (
        KeyConfig(name="asks", sha256=digest_of("asks")),
        KeyConfig(name="watches", sha256=digest_of("watches"), scopes=frozenset({"metrics"})),
    )
    async with faked(keys=keys) as application, application.client() as client:
        body = {"instances": [B64]}
        says(await client.post(PREDICT, json=body), 401, "API key")
        says(await client.post(PREDICT, json=body, headers={"Authorization": "Bearer watches"}), 403, "infer")
        says(await client.get("/v1/models"), 401)
        asks = {"Authorization": "Bearer asks", "X-Request-ID": "mine"}
        response = await client.post(PREDICT, json=body, headers=asks)
        assert (response.status_code, response.headers["X-Request-ID"], response.json()["id"]) == (200, "mine", "mine")
        assert application.metric("camserve_requests_total", route="/v1/models/{model}:predict", status="200") == 1
        await application.lifecycle.drain()
        says(await client.post(PREDICT, json=body, headers=asks), 503, "shutting down")


async def test_a_deadline_is_kept(application: Application, client: httpx.AsyncClient) -> None:
    application.worker.held = True
    response = await client.post(PREDICT, json={"instances": [B64]}, headers={"X-Request-Timeout-Ms": "50"})
    says(response, 504, "0.05 s")


async def test_whoever_goes_away_is_not_computed(application: Application) -> None:
    application.worker.held = True
    exchange = Exchange(PREDICT, json.dumps({"instances": [B64]}).encode())
    task = exchange.start(application)
    await until(lambda: application.worker.running)
    exchange.gone.set()
    await task
    assert application.explainer.admission.inside == 0


# -- what is refused --------------------------------------------------------------------------------------------------

TEXTS = {
    "no JSON": (b"{", 400, "not JSON"),
    "nothing": (b"", 400, "not JSON"),
    "not UTF-8": (b'{"instances": ["\xff"]}', 400, "not JSON"),
    "half a surrogate": (b'{"instances": ["\\ud800"]}', 400, "not JSON"),
    "NaN": (b'{"instances": [[[NaN]]]}', 400, "not JSON"),
    "a list": (b"[]", 400, "not a JSON object"),
    "no instances": (b"{}", 400, "'instances' is not a list"),
    "instances of text": (b'{"instances": "a"}', 400, "'instances' is not a list"),
    "empty instances": (b'{"instances": []}', 400, "at least one"),
    "too many": (b'{"instances": [1,1,1,1,1,1,1,1,1]}', 413, "send 8 at most"),
    "a column": (b'{"inputs": {"a": []}}', 400, "'inputs'"),
    "deep": (b'{"instances": ' + b"[" * 100_000, 400, "not JSON"),
    "many values": (b'{"instances": [[' + b"1," * 500_000 + b"1]]}", 413, "as files"),
    "parameters in a list": (b'{"instances": [1], "parameters": []}', 422, "'parameters'"),
    "an unknown parameter": (b'{"instances": [1], "parameters": {"layr": "a"}}', 422, "'layer'"),
    "a huge parameter": (b'{"instances": [1], "parameters": {"alpha": 1e999}}', 422, "alpha"),
    "a threshold of text": (b'{"instances": [1], "parameters": {"confidenceThreshold": "1"}}', 422, "from 0 to 1"),
    "an unknown layer": (b'{"instances": ["QUJD"], "parameters": {"layer": "conv3"}}', 422, "pets/layers lists"),
    "an unknown class": (b'{"instances": ["QUJD"], "parameters": {"target": "elk"}}', 422, "pets/classes?q="),
    "an unknown method": (b'{"instances": ["QUJD"], "parameters": {"method": "cam9"}}', 422, "GET /api/v1/methods"),
    "ragged pixels": (b'{"instances": [[[1], [1, 2]]]}', 400, "one length"),
    "pixels of text": (b'{"instances": [[["a"]]]}', 400, "numbers"),
    "no pixels": (b'{"instances": [[]]}', 400, "numbers"),
    "true pixels": (b'{"instances": [[[true]]]}', 400, "numbers"),
    "huge pixels": (b'{"instances": [[[%s]]]}' % (b"9" * 400), 400, "numbers"),
    "infinite pixels": (b'{"instances": [[[1e999]]]}', 400, "0 to 255"),
    "negative pixels": (b'{"instances": [[[-1]]]}', 400, "0 to 255"),
    "channels first": (b'{"instances": [[[[1,1,1,1]],[[1,1,1,1]],[[1,1,1,1]]]]}', 400, "3×1×4"),
    "a number": (b'{"instances": [1]}', 400, "no picture"),
    "b64 of a number": (b'{"instances": [{"b64": 1}]}', 400, "no picture"),
}


@pytest.mark.parametrize(("body", "status", "word"), TEXTS.values(), ids=TEXTS)
async def test_what_cannot_be_read_is_refused_in_words(
    client: httpx.AsyncClient, body: bytes, status: int, word: str
) -> None:
    says(await client.post(EXPLAIN, content=body, headers={"Content-Type": "application/json"}), status, word)


async def test_an_encoded_body_is_refused(client: httpx.AsyncClient) -> None:
    says(await client.post(PREDICT, content=b"x", headers={"Content-Encoding": "gzip"}), 415, "gzip")


async def test_other_verbs_and_paths_are_refused_in_its_words(client: httpx.AsyncClient) -> None:
    says(await client.get("/v1"), 404)
    says(await client.post("/v1/models/pets:train", json={}), 405)
    says(await client.post("/v1/models/dogs:predict", json={"instances": [B64]}), 404, "dogs", "GET /v1/models")
