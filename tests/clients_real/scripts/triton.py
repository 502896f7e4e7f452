"""tritonclient against a server: python triton.py URL PICTURE."""

from __future__ import annotations

import base64
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

url, file = sys.argv[1].removeprefix("http://"), sys.argv[2]
with open(file, "rb") as opened:
    picture = opened.read()
client = triton.InferenceServerClient(url)

# -- what is told -----------------------------------------------------------------------------------------------------

assert client.is_server_live()
assert client.is_server_ready()
assert client.is_model_ready("shapes")
assert not client.is_model_ready("nothing")
assert client.get_server_metadata()["name"] == "camserve"
metadata = client.get_model_metadata("shapes")
assert [each["name"] for each in metadata["inputs"]] == ["image"]
version = metadata["versions"][0]
assert client.is_model_ready("shapes", version)
assert client.get_model_config("shapes")["name"] == "shapes"
index = client.get_model_repository_index()
assert {"name": "shapes", "version": version, "state": "READY", "reason": ""} in index

# -- inference --------------------------------------------------------------------------------------------------------


def image(*files: bytes, in_binary: bool = True) -> triton.InferInput:
    """The input of pictures."""
    found = triton.InferInput("image", [len(files)], "BYTES")
    values = files if in_binary else [base64.b64encode(each) for each in files]
    found.set_data_from_numpy(np.array(values, dtype=np.object_), binary_data=in_binary)
    return found


for in_binary in (True, False):
    # Without outputs the client asks for binary data.
    answer = client.infer("shapes", [image(picture, picture, in_binary=in_binary)], request_id="mine")
    assert answer.get_response()["id"] == "mine"
    labels, heatmap = answer.as_numpy("label"), answer.as_numpy("heatmap")
    assert labels[:, 0].tolist() in ([b"star"] * 2, ["star"] * 2), labels
    assert heatmap.dtype == np.float32
    assert heatmap.ndim == 3
    assert heatmap.max() > 0
    assert answer.as_numpy("class_id").dtype == np.int64
    assert np.all(answer.as_numpy("score")[:, 0] > 0.5)

outputs = [
    triton.InferRequestedOutput("heatmap", binary_data=True),
    triton.InferRequestedOutput("label", binary_data=False),
    triton.InferRequestedOutput("overlay", binary_data=True),
]
answer = client.infer(
    "shapes",
    [image(picture)],
    model_version=version,
    outputs=outputs,
    parameters={"layer": "layer3", "top_k": 2, "size": "model"},
    timeout=30_000_000,
    priority=1,
)
assert answer.as_numpy("label").tolist()[0][0] == "star"
assert answer.as_numpy("overlay")[0][:2] == b"\xff\xd8"
assert answer.as_numpy("heatmap").shape[1] == answer.as_numpy("heatmap").shape[2] > 32

target = triton.InferInput("target", [2], "INT64")
target.set_data_from_numpy(np.array([0, 1], np.int64))
answer = client.infer("shapes", [image(picture, picture), target])
maps = answer.as_numpy("heatmap")
assert not np.array_equal(maps[0], maps[1])

broken = [image(picture, b"no picture")]
answer = client.infer("shapes", broken, outputs=[triton.InferRequestedOutput(name) for name in ("label", "error")])
assert answer.as_numpy("error")[0] == b""
assert b"not a picture" in answer.as_numpy("error")[1]

for wrong, word in ((broken, "Picture 1"), ([triton.InferInput("images", [1], "BYTES")], "images")):
    if wrong[0].name() != "image":
        wrong[0].set_data_from_numpy(np.array([picture], dtype=np.object_))
    try:
        client.infer("shapes", wrong)
    except InferenceServerException as error:
        assert word in str(error), error
    else:
        raise AssertionError("it was answered")

# -- control: this server lets nobody change its models ---------------------------------------------------------------

for change in (client.load_model, client.unload_model):
    try:
        change("shapes")
    except InferenceServerException as error:
        assert "management" in str(error), error
    else:
        raise AssertionError("it was done")

# -- statistics -------------------------------------------------------------------------------------------------------

(stats,) = client.get_inference_statistics("shapes")["model_stats"]
assert stats["inference_count"] >= 8
assert stats["inference_stats"]["success"]["count"] >= 5
assert client.get_inference_statistics()["model_stats"]
