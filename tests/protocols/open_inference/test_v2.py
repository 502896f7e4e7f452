"""The Open Inference Protocol and Triton's extensions, as clients see them."""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from service.errors import Overloaded
from service.settings import KeyConfig, ModelConfig
from service.web.keys import digest_of
from tests.toys import png
from tests.web.application import faked, until

if TYPE_CHECKING:
    import httpx

    from service.engine.request import Request
    from tests.web.application import Application

PICTURE = png(size=(60, 40))
B64 = base64.b64encode(PICTURE).decode()
INFER = "/v2/models/pets/infer"
LENGTH = "Inference-Header-Content-Length"


def image(*data: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "image", "shape": [len(data)], "datatype": "BYTES", "data": list(data), **fields}


def body(*outputs: str, inputs: Any = None, **fields: Any) -> dict[str, Any]:
    named = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return {"inputs": [image(B64)] if inputs is None else inputs, **named, **fields}


def binary(fields: dict[str, Any], *blobs: bytes) -> dict[str, Any]:
    """A request whose JSON has data behind it."""
    head = json.dumps(fields).encode()
    return {"content": head + b"".join(blobs), "headers": {LENGTH: str(len(head))}}


def elements(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(file)) + file for file in files)


def tensors(response: httpx.Response) -> dict[str, Any]:
    """The outputs of an answer by name, in JSON or behind it."""
    assert response.status_code == 200, response.text
    length = int(response.headers.get(LENGTH, len(response.content)))
    answer, behind = json.loads(response.content[:length]), response.content[length:]
    found: dict[str, Any] = {}
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            data: Any = output["data"]
        else:
            part, behind = behind[:size], behind[size:]
            data = part if output["datatype"] == "BYTES" else np.frombuffer(part, DTYPES[output["datatype"]])
        found[output["name"]] = data if isinstance(data, bytes) else np.array(data).reshape(output["shape"]).tolist()
    assert behind == b""
    return found


DTYPES = {"FP32": "<f4", "INT64": "<i8"}


def says(response: httpx.Response, status: int, *words: str) -> None:
    """The response is an error in the protocol's words, and nothing else."""
    assert response.headers["Content-Type"] == "application/json"
    answer = response.json()
    assert (response.status_code, list(answer)) == (status, ["error"]), response.text
    for word in words:
        assert word in answer["error"]


# -- what is answered -------------------------------------------------------------------------------------------------


async def test_by_default_all_but_the_overlay_is_answered(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, json=body(id="42"))
    answer = response.json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "pets", "1")
    assert {each["name"]: (each["datatype"], each["shape"]) for each in answer["outputs"]} == {
        "heatmap": ("FP32", [1, 4, 4]),
        "class_id": ("INT64", [1, 3]),
        "score": ("FP32", [1, 3]),
        "label": ("BYTES", [1, 3]),
    }
    found = tensors(response)
    assert found["heatmap"] == [np.arange(16.0).reshape(4, 4).tolist()]
    assert (found["class_id"], found["label"]) == ([[1, 2, 0]], [["dog", "owl", "cat"]])
    assert sum(found["score"][0]) == pytest.approx(1)


@pytest.mark.parametrize("where", ["output", "request"])
async def test_binary_in_and_out(client: httpx.AsyncClient, where: str) -> None:
    sent = elements(PICTURE, PICTURE)
    parameters = {"binary_data": True} if where == "output" else {}
    fields = body(
        inputs=[{"name": "image", "shape": [2, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(sent)}}]
    )
    fields["outputs"] = [
        {"name": name, "parameters": parameters} for name in ("heatmap", "label", "class_id", "overlay")
    ]
    fields["parameters"] = {"binary_data_output": True} if where == "request" else {}
    response = await client.post(INFER, **binary(fields, sent))
    assert response.headers["Content-Type"] == "application/octet-stream"
    found = tensors(response)
    assert found["heatmap"] == 2 * [np.arange(16.0).reshape(4, 4).tolist()]
    assert found["label"] == elements(*2 * [b"dog", b"owl", b"cat"])
    assert found["class_id"] == 2 * [[1, 2, 0]]
    (length,) = struct.unpack("<I", found["overlay"][:4])
    assert found["overlay"][4:6] == b"\xff\xd8"
    assert len(found["overlay"]) > 4 + length


async def test_a_picture_as_the_whole_body(client: httpx.AsyncClient) -> None:
    response = await client.post(INFER, content=PICTURE, headers={LENGTH: "0"})
    assert tensors(response)["label"] == [["dog", "owl", "cat"]]


async def test_one_output_in_json_and_one_behind_it(client: httpx.AsyncClient) -> None:
    fields = body() | {"outputs": [{"name": "label"}, {"name": "score", "parameters": {"binary_data": True}}]}
    found = tensors(await client.post(INFER, json=fields))
    assert found["label"] == [["dog", "owl", "cat"]]
    assert found["score"][0][0] == pytest.approx(0.665, abs=0.001)


async def test_the_overlay_in_json_is_base64(client: httpx.AsyncClient) -> None:
    (output,) = (await client.post(INFER, json=body("overlay"))).json()["outputs"]
    assert output["parameters"] == {"content_type": "base64"}
    assert base64.b64decode(output["data"][0])[:2] == b"\xff\xd8"


@pytest.mark.parametrize(("size", "shape"), [("layer", [4, 4]), ("model", [32, 32]), ("picture", [40, 60])])
async def test_size_enlarges_the_heatmap_and_keeps_its_values(
    client: httpx.AsyncClient, size: str, shape: list[int]
) -> None:
    values = np.array(tensors(await client.post(INFER, json=body("heatmap", parameters={"size": size})))["heatmap"][0])
    assert list(values.shape) == shape
    assert (values.min(), values.max()) == (0, 15)


async def test_parameters_are_the_options(client: httpx.AsyncClient) -> None:
    found = tensors(await client.post(INFER, json=body(parameters={"layer": "conv1", "target": "owl", "top_k": 1})))
    assert (found["label"], len(found["heatmap"])) == ([["dog"]], 1)
    fused = body("heatmap", parameters={"layer": "conv1,conv2", "fuse": "max"})
    assert np.shape(tensors(await client.post(INFER, json=fused))["heatmap"]) == (1, 4, 4)


@pytest.mark.parametrize(
    ("datatype", "targets"), [("BYTES", ["cat", "owl"]), ("INT64", [0, 2]), ("INT32", [0, 2]), ("BYTES", ["#0", "2"])]
)
@pytest.mark.parametrize("in_binary", [False, True])
async def test_each_picture_may_have_its_target(
    application: Application, client: httpx.AsyncClient, datatype: str, targets: list[Any], in_binary: bool
) -> None:
    target: dict[str, Any] = {"name": "target", "shape": [2], "datatype": datatype}
    application.worker.held = True
    if in_binary:
        dtypes = {"INT64": "<i8", "INT32": "<i4"}
        texts = elements(*(str(each).encode() for each in targets))
        data = texts if datatype == "BYTES" else np.array(targets, dtypes[datatype]).tobytes()
        request = binary(
            body("heatmap", inputs=[image(B64, B64), target | {"parameters": {"binary_data_size": len(data)}}]), data
        )
    else:
        request = {"json": body("heatmap", inputs=[image(B64, B64), target | {"data": targets}])}
    task = asyncio.create_task(client.post(INFER, **request))
    await until(lambda: application.worker.running)
    asked = [question.classes for run in application.worker.running for question in run.targets]
    application.worker.held = False
    application.worker.finish()
    assert (await task).status_code == 200
    assert asked[0] in {(0,), (2,)}


async def test_lists_stand_in_one_text(client: httpx.AsyncClient) -> None:
    fused = body("heatmap", parameters={"layer": " conv1, conv2 ", "fuse": "max"})
    assert np.shape(tensors(await client.post(INFER, json=fused))["heatmap"]) == (1, 4, 4)
    says(await client.post(INFER, json=body(parameters={"labels": "a red car, a bus"})), 422, "such as 'a red car'")


async def test_how_sure_the_model_is_of_each_picture(application: Application, client: httpx.AsyncClient) -> None:
    fields = body("score", "entropy", "margin", "error", inputs=[image(B64, "QUJD")])
    found = tensors(await client.post(INFER, json=fields))
    shares = np.array(found["score"][0])
    assert found["margin"] == [pytest.approx(shares[0] - shares[1], rel=1e-5), 0]
    assert found["entropy"] == [pytest.approx(-(shares * np.log(shares)).sum() / np.log(3), rel=1e-5), 0]
    assert application.metric("camserve_batch_size_count", model="pets", op="explain") == 0


async def test_how_good_the_map_of_each_picture_is(client: httpx.AsyncClient) -> None:
    inputs, names = [image(B64, "QUJD", B64)], ("mass_inside", "flip_stability", "error")
    for region, share in {"[0, 0, 1000, 1000]": 1, "[[0, 0], [0, 1000], [1000, 1000], [1000, 0]]": 1}.items():
        found = tensors(await client.post(INFER, json=body(*names, inputs=inputs, parameters={"region": region})))
        assert found["mass_inside"] == [pytest.approx(share), 0, pytest.approx(share)]
        assert found["flip_stability"][0] == found["flip_stability"][2] != 0
        assert found["flip_stability"][1] == 0
    corner = body("mass_inside", "heatmap", parameters={"region": "[0, 0, 1, 1]"})
    assert 0 <= tensors(await client.post(INFER, json=corner))["mass_inside"][0] < 1


async def test_how_like_the_maps_of_two_layers_are(client: httpx.AsyncClient) -> None:
    """The same as the native API says, and the rest is that of the first layer."""
    both, one = {"layer": "conv1,conv2"}, {"layer": "conv1"}
    names = ("layer_agreement", "flip_stability", "heatmap", "error")
    found = tensors(await client.post(INFER, json=body(*names, inputs=[image(B64, "QUJD")], parameters=both)))
    native = await client.post(
        "/api/v1/models/pets/explain",
        params={"layer": ["conv1", "conv2"], "output": "scores"},
        content=PICTURE,
        headers={"Content-Type": "image/png"},
    )
    scores = [each["scores"] for each in native.json()["results"][0]["explanations"]]
    assert found["layer_agreement"] == [pytest.approx(scores[0]["layer_agreement"]), 0]
    assert found["flip_stability"] == [pytest.approx(scores[0]["flip_stability"]), 0]
    alone = tensors(await client.post(INFER, json=body("heatmap", parameters=one)))
    assert found["heatmap"][0] == alone["heatmap"][0]
    for parameters in ({}, one, {"layer": "conv1,conv1"}, {**both, "fuse": "max"}):
        says(await client.post(INFER, json=body("layer_agreement", parameters=parameters)), 422, "two or more")
    says(await client.post(INFER, json=body("layer_agreement", parameters={**both, "method": "gradcam,layercam"})), 422)
    few = body("layer_agreement", "heatmap", parameters={**both, "target": "top-2"})
    says(await client.post(INFER, json=few), 422, "one target")


async def test_without_maps_there_is_no_gradient_work(application: Application, client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=body("class_id", "score", "label", parameters={"layer": "conv1", "target": "cat"}))
    assert application.metric("camserve_batch_size_count", model="pets", op="predict") == 1
    assert application.metric("camserve_batch_size_count", model="pets", op="explain") == 0


async def test_a_picture_that_fails_is_named(client: httpx.AsyncClient) -> None:
    says(await client.post(INFER, json=body(inputs=[image(B64, "QUJD")])), 400, "Picture 1", "'error'")
    says(await client.post(INFER, json=body(inputs=[image(B64, "no base64!")])), 400, "image[1]")


async def test_with_the_output_error_the_others_are_answered(client: httpx.AsyncClient) -> None:
    names = ("heatmap", "overlay", "class_id", "score", "label", "error")
    found = tensors(await client.post(INFER, json=body(*names, inputs=[image("QUJD", B64)])))
    assert "not a picture" in found["error"][0]
    assert found["error"][1] == ""
    assert (found["class_id"], found["label"]) == ([[-1, -1, -1], [1, 2, 0]], [["", "", ""], ["dog", "owl", "cat"]])
    assert (found["score"][0], found["overlay"][0]) == ([0, 0, 0], "")
    assert np.max(found["heatmap"][0]) == 0
    assert np.max(found["heatmap"][1]) == 15


# -- time and turns ---------------------------------------------------------------------------------------------------


async def test_timeout_shortens_the_deadline_and_never_lengthens_it(
    application: Application, client: httpx.AsyncClient
) -> None:
    application.worker.held = True
    for header, microseconds in (("60000", 50_000), ("50", 60_000_000)):
        headers = {"X-Request-Timeout-Ms": header}
        response = await client.post(INFER, json=body(parameters={"timeout": microseconds}), headers=headers)
        says(response, 504, "0.05 s")


@pytest.mark.parametrize(("priority", "share"), [(None, 1), (0, 1), (1, 1), (2, 1 / 8), (10**30, 1 / 8)])
async def test_a_lower_priority_is_a_lesser_share_and_a_queue_of_its_own(
    application: Application,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    priority: int | None,
    share: float,
) -> None:
    asked: list[Request] = []

    async def take(request: Request) -> None:
        asked.append(request)
        raise Overloaded("seen")

    monkeypatch.setattr(application.explainer, "answer", take)
    says(await client.post(INFER, json=body(parameters={"priority": priority})), 429, "seen")
    assert asked[0].weight == share
    assert asked[0].client.endswith("(bulk)") == (share < 1)


# -- what is told of models -------------------------------------------------------------------------------------------


async def test_server_health_and_models(client: httpx.AsyncClient) -> None:
    server = (await client.get("/v2")).json()
    assert server["name"] == "camserve"
    assert set(server["extensions"]) >= {"binary_tensor_data", "statistics", "model_configuration", "model_repository"}
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"ready": True}
    assert (await client.get("/v2/models")).json() == {"models": ["pets"]}
    for path in ("/v2/models/pets", "/v2/models/pets/versions/1"):
        assert (await client.get(f"{path}/ready")).json() == {"name": "pets", "ready": True}
        about = (await client.get(path)).json()
        assert (about["name"], about["versions"]) == ("pets", ["1"])
        assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        config = (await client.get(f"{path}/config")).json()
        assert [each["name"] for each in config["output"]] == [each["name"] for each in about["outputs"]]
    says(await client.get("/v2/models/pet"), 404, "'pets'", "/v2/repository/index")
    says(await client.get("/v2/models/pets/versions/7/ready"), 404, "7")


async def test_the_index_lists_versions_and_states(application: Application, client: httpx.AsyncClient) -> None:
    entry = {"name": "pets", "version": "1", "state": "READY", "reason": ""}
    assert (await client.post("/v2/repository/index")).json() == [entry]
    application.worker.load_outcome = lambda *_: None
    application.worker.lose("pets")
    await until(lambda: application.pool.status("pets").state != "ready")
    (listed,) = (await client.post("/v2/repository/index", json={})).json()
    assert listed["state"] == "UNAVAILABLE"
    assert listed["reason"]
    assert (await client.post("/v2/repository/index", json={"ready": True})).json() == []
    says(await client.get("/v2/models/pets/ready"), 503)
    response = await client.get("/v2/health/ready")
    assert (response.status_code, response.json()) == (503, {"ready": False})


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"ready": 1}', b"\xff", b'{"a": "' + b"x" * 2000 + b'"}'])
async def test_an_index_that_cannot_be_read_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    says(await client.post("/v2/repository/index", content=content), 400, "ready")


async def test_statistics_count_images_batches_and_requests(client: httpx.AsyncClient) -> None:
    await client.post(INFER, json=body(inputs=[image(B64, B64, B64)]))
    await client.post(INFER, json=body(inputs=[image(B64, "QUJD")]) | {"outputs": [{"name": "error"}]})
    await client.post(INFER, json=body(inputs=[image("QUJD")]))
    await client.post("/api/v1/predict", files={"image": ("a.png", PICTURE)})
    for path in ("/v2/models/pets/stats", "/v2/models/pets/versions/1/stats", "/v2/models/stats"):
        (found,) = (await client.get(path)).json()["model_stats"]
        assert (found["name"], found["version"], found["inference_count"]) == ("pets", "1", 5)
        stats = found["inference_stats"]
        assert (stats["success"]["count"], stats["fail"]["count"], stats["compute_infer"]["count"]) == (3, 1, 5)
        assert stats["compute_infer"]["ns"] > 0
        batches = sum(each["compute_infer"]["count"] for each in found["batch_stats"])
        assert 1 <= batches == found["execution_count"] <= 5
    says(await client.get("/v2/models/pet/stats"), 404)


async def test_models_are_loaded_and_put_out_where_they_may_be_changed(client: httpx.AsyncClient) -> None:
    for verb in ("load", "unload"):
        says(await client.post(f"/v2/repository/models/pets/{verb}"), 403, "management")
    models = tuple(ModelConfig(name=name, architecture="shapes") for name in ("pets", "more"))
    async with faked(management=True, models=models) as application, application.client() as client:
        path = "/v2/repository/models/more"
        for verb in ("load", "unload", "load"):
            response = await client.post(f"{path}/{verb}", json={"parameters": {}})
            assert (response.status_code, response.json()) == (200, {})
            listed = (await client.post("/v2/repository/index")).json()
            assert {each["state"] for each in listed if each["name"] == "more"} == {"READY"}
        says(await client.post("/v2/repository/models/none/load"), 404, "none")
        says(await client.post(f"{path}/load", json={"parameters": {"config": "{}"}}), 400, "PUT /api/v1/models")
        says(await client.post(f"{path}/load", content=b"[]"), 400, "parameters")


async def test_keys_and_draining() -> None:
    keys = (KeyConfig(name="asks", sha256=digest_of("asks")),)
    async with faked(keys=keys) as application, application.client() as client:
        says(await client.post(INFER, json=body()), 401, "API key")
        says(await client.get("/v2/models/pets/ready"), 401)
        says(await client.post("/v2/repository/index"), 401)
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).status_code == 200
        headers = {"Authorization": "Bearer asks"}
        assert (await client.post(INFER, json=body(), headers=headers)).status_code == 200
        assert (await client.post("/v2/repository/index", headers=headers)).status_code == 200
        await application.lifecycle.drain()
        says(await client.post(INFER, json=body(), headers=headers), 503, "shutting down")
        assert (await client.get("/v2/health/live")).status_code == 200
        assert (await client.get("/v2/health/ready")).json() == {"ready": False}


# -- what is refused --------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no inputs": ({}, 400, "'inputs'"),
    "inputs of text": ({"inputs": "a"}, 400, "'inputs'"),
    "an input of text": ({"inputs": ["a"]}, 400, "not an object"),
    "no image": (
        {"inputs": [{"name": "target", "shape": [1], "datatype": "INT64", "data": [1]}]},
        400,
        'no input "image"',
    ),
    "another input": ({"inputs": [image(B64, name="images")]}, 400, "'images'"),
    "an image twice": ({"inputs": [image(B64), image(B64)]}, 400, "twice"),
    "pixels": ({"inputs": [image(1, datatype="UINT8")]}, 400, "'UINT8'"),
    "no datatype": ({"inputs": [image(B64, datatype=None)]}, 400, "datatype"),
    "a negative shape": ({"inputs": [image(B64, shape=[-1])]}, 400, "[-1]"),
    "a huge shape": ({"inputs": [image(B64, shape=[10**30])]}, 413, "too many"),
    "a flat shape": ({"inputs": [image(B64, shape=[])]}, 400, "[n]"),
    "a matrix": ({"inputs": [image(B64, shape=[1, 2])]}, 400, "[1, 2]"),
    "a shape of floats": ({"inputs": [image(B64, shape=[1.0])]}, 400, "[n]"),
    "a shape of truth": ({"inputs": [image(B64, shape=[True])]}, 400, "[n]"),
    "no shape": ({"inputs": [image(B64, shape=None)]}, 400, "None"),
    "an empty shape": ({"inputs": [image(shape=[0])]}, 400, "empty"),
    "another count": ({"inputs": [image(B64, shape=[2])]}, 400, "its shape says 2"),
    "data of numbers": ({"inputs": [image(1)]}, 400, "text"),
    "no data": ({"inputs": [image(B64, data=None)]}, 400, "neither"),
    "targets of floats": (
        {"inputs": [image(B64), {"name": "target", "shape": [1], "datatype": "INT64", "data": [1.5]}]},
        400,
        "whole numbers",
    ),
    "more targets": (
        {"inputs": [image(B64), {"name": "target", "shape": [2], "datatype": "INT64", "data": [1, 2]}]},
        400,
        "differ",
    ),
    "an unknown target": (
        {"inputs": [image(B64), {"name": "target", "shape": [1], "datatype": "INT64", "data": [10**15]}]},
        422,
        "Class index",
    ),
    "shared memory": ({"inputs": [image(B64, parameters={"shared_memory_region": "a"})]}, 400, "Shared memory"),
    "data twice": ({"inputs": [image(B64, parameters={"binary_data_size": 4})]}, 400, "both"),
    "parameters of text": ({"inputs": [image(B64, parameters="a")]}, 400, "not an object"),
    "parameters that are a list": ({"inputs": [image(B64, parameters=[])]}, 400, "not an object"),
    "an output's parameters that are a list": (
        body(outputs=[{"name": "label", "parameters": []}]),
        400,
        "not an object",
    ),
    "outputs that are an object": (body(outputs={}), 400, "not a list"),
    "half a class": (body(parameters={"target": 2.5}), 422, "fractional part"),
    "a typing error": (body(parameters={"layr": "conv1"}), 422, "'layer'"),
    "a list": (body(parameters={"layer": ["conv1"]}), 422, "commas"),
    "two layers": (body(parameters={"layer": "conv1,conv2"}), 422, "one map"),
    "the best three": (body(parameters={"target": "top-3"}), 422, "one map"),
    "an unknown layer": (body(parameters={"layer": "conv3"}), 422, "conv2"),
    "an output as a parameter": (body(parameters={"output": "mask"}), 422, "'outputs'"),
    "scores as a parameter": (body(parameters={"scores": True}), 422, "'entropy'"),
    "a region for nothing": (body(parameters={"region": "[0, 0, 9, 9]"}), 422, "'mass_inside'"),
    "inside of nothing": (body("mass_inside"), 422, "'region'"),
    "a proof": (body(parameters={"verify": True}), 422, "/api/v1"),
    "a huge alpha": (body(parameters={"alpha": 1e300}), 422, "alpha"),
    "a timeout of text": (body(parameters={"timeout": "1"}), 422, "'timeout'"),
    "a negative timeout": (body(parameters={"timeout": -1}), 422, "'timeout'"),
    "a timeout of truth": (body(parameters={"timeout": True}), 422, "'timeout'"),
    "a negative priority": (body(parameters={"priority": -1}), 422, "'priority'"),
    "binary, perhaps": (body(parameters={"binary_data_output": 1}), 422, "true or false"),
    "all parameters in text": (body(parameters="a"), 400, "'parameters'"),
    "an unknown output": (body("heatmaps"), 400, "'heatmap'"),
    "an output twice": (body("label", "label"), 400, "twice"),
    "an output without a name": ({**body(), "outputs": [{}]}, 400, "There are"),
    "outputs of text": ({**body(), "outputs": "label"}, 400, "not a list"),
    "a classification": (
        {**body(), "outputs": [{"name": "score", "parameters": {"classification": 2}}]},
        400,
        "class_id",
    ),
    "an id of numbers": (body(id=4), 400, "'id'"),
    "a long id": (body(id="x" * 2000), 400, "'id'"),
    "an unknown member": (body(layer="conv1"), 400, "'layer'"),
}


@pytest.mark.parametrize(("fields", "status", "word"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_said(client: httpx.AsyncClient, fields: dict[str, Any], status: int, word: str) -> None:
    says(await client.post(INFER, json=fields), status, word)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"id": "\xff"}', b'{"parameters": {"alpha": NaN}}', b"[" * 40_000]
)
async def test_what_is_no_json_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    says(await client.post(INFER, content=content), 400, "JSON")


async def test_many_values_are_refused(client: httpx.AsyncClient) -> None:
    says(await client.post(INFER, json=body(inputs=[image(*range(60_000))])), 413, "as files")


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "99999999", "9" * 400, "", "\xb2"])
async def test_a_length_of_the_json_that_is_none_is_refused(client: httpx.AsyncClient, length: str) -> None:
    response = await client.post(INFER, content=b'{"inputs": []}', headers={LENGTH.encode(): length.encode("latin-1")})
    says(response, 400, LENGTH)


ONE = {"name": "image", "shape": [1], "datatype": "BYTES"}
LIES: dict[str, tuple[Any, bytes, str]] = {
    "more than there is": (1000, elements(PICTURE)[:20], "behind the JSON"),
    "less than there is": (len(elements(PICTURE)), elements(PICTURE) + b"abc", "3 bytes at the end"),
    "negative": (-1, elements(PICTURE), "0 or more"),
    "text": ("4", elements(PICTURE), "0 or more"),
    "truth": (True, elements(PICTURE), "0 or more"),
    "an element that is longer": (8, struct.pack("<I", 2**32 - 1) + b"abcd", "4294967295"),
    "half a length": (2, b"\x01\x00", "four bytes"),
    "no element": (0, b"", "0 elements"),
    "two elements": (2 * len(elements(PICTURE)), elements(PICTURE, PICTURE), "more bytes"),
}


@pytest.mark.parametrize(("size", "blob", "word"), LIES.values(), ids=LIES)
async def test_binary_lengths_that_lie_are_refused(
    client: httpx.AsyncClient, size: Any, blob: bytes, word: str
) -> None:
    fields = body(inputs=[ONE | {"parameters": {"binary_data_size": size}}])
    says(await client.post(INFER, **binary(fields, blob)), 400, word)


async def test_targets_that_are_no_numbers_or_no_utf_8_are_refused(client: httpx.AsyncClient) -> None:
    for datatype, data, word in (("INT64", b"abc", "no whole numbers"), ("BYTES", elements(b"\xff\xfe"), "UTF-8")):
        target = {"name": "target", "shape": [1], "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
        says(await client.post(INFER, **binary(body(inputs=[image(B64), target]), data)), 400, word)


async def test_a_heatmap_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    large = base64.b64encode(png(size=(1000, 800))).decode()
    fields = body("heatmap", inputs=[image(large)], parameters={"size": "picture"})
    says(await client.post(INFER, json=fields), 422, "binary_data")
    fields["parameters"]["binary_data_output"] = True
    assert np.shape(tensors(await client.post(INFER, json=fields))["heatmap"]) == (1, 800, 1000)


async def test_heatmaps_of_different_sizes_do_not_fit(client: httpx.AsyncClient) -> None:
    other = base64.b64encode(png(size=(30, 30))).decode()
    fields = body("heatmap", inputs=[image(B64, other)], parameters={"size": "picture"})
    says(await client.post(INFER, json=fields), 422, "'model'")


async def test_other_verbs_and_paths_are_refused_in_its_words(client: httpx.AsyncClient) -> None:
    says(await client.get(INFER), 405)
    says(await client.get("/v2/nothing"), 404)
    says(await client.post("/v2/models/dogs/infer", json=body()), 404, "dogs")
    says(await client.post(INFER, content=b"x", headers={"Content-Encoding": "gzip"}), 415, "gzip")
