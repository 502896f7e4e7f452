"""KServe's REST client, V1 and V2, against a server: python kserve_rest.py URL PICTURE."""

from __future__ import annotations

import asyncio
import base64
import sys
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, file = sys.argv[1], sys.argv[2]
with open(file, "rb") as opened:
    picture = opened.read()
text = base64.b64encode(picture).decode()


async def v1() -> None:
    """Version 1: instances."""
    client = InferenceRESTClient(RESTConfig(protocol="v1"))
    assert await client.is_server_live(url, headers={"accept": "application/json"})
    assert await client.is_model_ready(url, "shapes")
    data: dict[str, Any] = {"instances": [{"image": {"b64": text}}, {"image": {"b64": text}, "target": 0}]}
    answer = await client.infer(url, data, model_name="shapes")
    assert [each["displayNames"][0] for each in answer["predictions"]] == ["star", "star"]
    answer = await client.explain(url, model_name="shapes", data=data)
    assert [each["attributions"][0]["outputIndex"] for each in answer["explanations"]][1] == [0]
    assert len(answer["predictions"]) == 2
    try:
        await client.infer(url, {"instances": []}, model_name="shapes")
    except httpx.HTTPStatusError as error:
        assert "at least one picture" in str(error), error
    else:
        raise AssertionError("it was answered")


async def v2() -> None:
    """Version 2: tensors."""
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "shapes")
    assert not await client.is_model_ready(url, "nothing")
    in_json = InferInput("image", [1], "BYTES", data=[text])
    in_binary = InferInput("image", [2], "BYTES")
    in_binary.set_data_from_numpy(np.array([picture, picture], dtype=np.object_), binary_data=True)
    for given in (in_json, in_binary):
        request = InferRequest(model_name="shapes", infer_inputs=[given], request_id="mine", parameters={"top_k": 2})
        answer = await client.infer(url, request, model_name="shapes")
        outputs = {each.name: each for each in answer.outputs}
        assert answer.id == "mine"
        assert outputs["label"].as_numpy().reshape(-1, 2)[0, 0] in {"star", b"star"}
        assert outputs["heatmap"].as_numpy().shape[0] == given.shape[0]
    try:
        wrong = InferRequest(model_name="shapes", infer_inputs=[InferInput("image", [1], "BYTES", data=["no base64!"])])
        await client.infer(url, wrong, model_name="shapes")
    except httpx.HTTPStatusError as error:
        assert "base64" in str(error), error
    else:
        raise AssertionError("it was answered")


asyncio.run(v1())
asyncio.run(v2())
