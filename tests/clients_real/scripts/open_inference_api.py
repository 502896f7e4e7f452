"""open-inference-openapi against a server: python open_inference_api.py URL PICTURE."""

from __future__ import annotations

import base64
import sys

from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import BadRequestError
from open_inference.openapi.types import InferenceRequest, RequestInput, RequestOutput

url, file = sys.argv[1], sys.argv[2]
with open(file, "rb") as opened:
    text = base64.b64encode(opened.read()).decode()

client = OpenInferenceClient(base_url=url)
client.check_server_liveness()
client.check_server_readiness()
client.check_model_readiness("shapes")
assert client.read_server_metadata().name == "camserve"
assert client.read_model_metadata("shapes").inputs[0].name == "image"


def ask(data: str, model: str = "shapes") -> dict[str, object]:
    """The outputs of an answer by name."""
    request = InferenceRequest(
        id="mine",
        inputs=[RequestInput(name="image", shape=[1], datatype="BYTES", data=[data])],
        outputs=[RequestOutput(name="label"), RequestOutput(name="score")],
    )
    answer = client.model_infer(model_name=model, request=request)
    assert answer.id == "mine"
    return {each.name: each.data for each in answer.outputs}


found = ask(text)
assert "star" in str(found["label"]), found

for data, model, expected in (("no base64!", "shapes", BadRequestError), (text, "nothing", ApiError)):
    try:
        ask(data, model)
    except expected as error:
        assert error.body["error"], error
    else:
        raise AssertionError("it was answered")
