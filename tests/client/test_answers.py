"""What the clients make of answers."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from typing import Any

import httpx
import numpy as np
import pytest

from service import errors, wire
from service.client import Explained, Failed, Predicted, UnexpectedResponse


def explained(call: Any, server: Any, **members: Any) -> Explained:
    server.answers = [server.answer(server.result(**members))]
    answer = call("explain", b"bytes")
    assert isinstance(answer, Explained)
    return answer


def test_members(call: Any, server: Any) -> None:
    answer = explained(call, server)
    assert answer.model.name == "resnet50"
    assert answer.image.filename == "0.png"
    assert answer.view == wire.BoxData(left=0.5, top=0, right=3.5, bottom=3)
    assert [prediction.label for prediction in answer.predictions] == ["tabby"]
    assert answer.timing.batch_size == 1
    assert answer.request_id == "01J"
    assert (answer.label, answer.probability) == ("tabby", 0.61)
    assert answer.peak == wire.PointData(x=2, y=1.5)


def test_a_map_is_decoded_into_an_array_of_ones_own(call: Any, server: Any) -> None:
    answer = explained(call, server)
    array = answer.map()
    assert array.dtype == np.float32
    assert array.dtype.isnative
    assert array.tolist() == [[0.0, 1.5, -2.0], [0.25, 3.0, float(np.float32(1e-3))]]
    array[0, 0] = 9
    assert answer.map()[0, 0] == 0


def test_map_bytes_worked_by_hand(call: Any, server: Any) -> None:
    data = base64.b64encode(bytes.fromhex("0000803f 000000c0")).decode()  # 1.0, -2.0
    raw = server.explanation(map={"dtype": "float32", "shape": [2, 1], "data": data})
    assert explained(call, server, explanations=[raw]).map().tolist() == [[1.0], [-2.0]]


def test_a_map_put_to_the_proof(call: Any, server: Any) -> None:
    proof = {
        "drop": 7.1,
        "drop_probability": 0.41,
        "controls": {"median": 0.9, "max": 2.2, "count": 19},
        "p": 0.05,
        "verdict": "supported",
        "gates": {"class_differs": True, "random_head_differs": None},
        "passes": 21,
        "text": "Supported: …",
    }
    raw = server.explanation(verification=proof, hidden=server.explanation()["overlay"])
    answer = explained(call, server, explanations=[raw])
    for each in (answer, answer.explanations[0]):
        assert each.verification is not None
        assert (each.verification.verdict, each.verification.controls.max) == ("supported", 2.2)  # type: ignore[union-attr]
        assert each.verification.gates.random_head_differs is None
        assert each.hidden().size == (4, 3)


def test_what_was_not_put_to_the_proof(call: Any, server: Any) -> None:
    answer = explained(call, server)
    assert answer.verification is None
    with pytest.raises(ValueError, match="add 'hidden' to output="):
        answer.hidden()


def test_pictures(call: Any, server: Any) -> None:
    answer = explained(call, server)
    assert answer.overlay().getpixel((0, 0)) == (10, 20, 30)
    heatmap = answer.heatmap()
    assert (heatmap.mode, heatmap.size, heatmap.getpixel((3, 2))) == ("RGBA", (4, 3), (255, 0, 0, 255))


def test_masks_and_regions(call: Any, server: Any) -> None:
    from PIL import Image

    box = {"left": 0, "top": 1, "right": 2, "bottom": 3}
    region = {"box": box, "polygon": [[0, 1], [2, 1], [2, 3]], "score": 1.0, "area": 0.3}
    raw = server.explanation(mask=server.encoded(Image.new("L", (4, 3), 200)), regions=[region])
    answer = explained(call, server, explanations=[raw])
    assert (answer.mask().mode, answer.mask().getpixel((0, 0))) == ("L", 200)
    assert answer.regions[0].polygon == [(0, 1), (2, 1), (2, 3)]


@pytest.mark.parametrize("output", ["mask", "regions", "heatmap", "overlay", "map"])
def test_what_was_not_asked_for_says_how_to_ask(call: Any, server: Any, output: str) -> None:
    answer = explained(call, server, explanations=[server.explanation(**{output: None})])
    with pytest.raises(ValueError, match=f"add '{output}' to output="):
        answer.regions if output == "regions" else getattr(answer, output)()


def test_shortcuts_are_those_of_the_first_explanation(call: Any, server: Any) -> None:
    other = {"index": 1, "label": "tiger", "probability": 0.2, "logit": 3.0}
    data = base64.b64encode(struct.pack("<f", 0.5)).decode()
    second = server.explanation(
        layer="layer3",
        method="layercam",
        target=other,
        against=server.explanation()["target"],
        empty=True,
        maximum=0.5,
        peak=None,
        map={"dtype": "float32", "shape": [1, 1], "data": data},
    )
    answer = explained(call, server, explanations=[server.explanation(), second])
    assert (answer.label, answer.precision) == ("tabby", "bfloat16")
    view = answer.explanations[1]
    assert (view.layer, view.method, view.label, view.probability) == ("layer3", "layercam", "tiger", 0.2)
    assert (view.empty, view.maximum, view.peak, view.map().tolist()) == (True, 0.5, None, [[0.5]])
    assert view.target == wire.ExplanationTarget(**other)
    assert view.against is not None
    assert repr(view) == "ExplanationView('tiger', against='tabby', layer='layer3', method='layercam')"


def test_reprs_are_short(call: Any, server: Any) -> None:
    answer = explained(call, server)
    assert repr(answer) == "Explained('0.png', 'tabby', probability=0.61)"
    assert repr(answer.explanations[0]) == "ExplanationView('tabby', layer='layer4', method='gradcam')"


def test_answers_compare_by_content(call: Any, server: Any) -> None:
    assert explained(call, server) == explained(call, server)
    with pytest.raises(AttributeError):
        explained(call, server).image = None  # type: ignore[misc, assignment]


def test_predictions(call: Any, server: Any) -> None:
    server.answers = [server.answer(server.result(explanations=[], view=None))]
    answer = call("predict", b"bytes")
    assert type(answer) is Predicted
    assert server.requests[0].url.path == "/api/v1/predict"
    assert (answer.label, answer.probability, answer.predictions[0].index) == ("tabby", 0.61, 281)
    assert repr(answer) == "Predicted('0.png', 'tabby', probability=0.61)"
    assert answer.precision == "bfloat16"


def a_failure(server: Any) -> dict[str, Any]:
    error = server.problem_body(400, "invalid_image", frames=0)
    return {"predictions": [], "explanations": [], "view": None, "error": error}


@pytest.mark.parametrize(("method", "kind"), [("explain_many", Explained), ("predict_many", Predicted)])
def test_a_failed_picture_stands_in_its_place(call: Any, server: Any, method: str, kind: type) -> None:
    server.answers = [server.answer(server.result(0), server.result(1, **a_failure(server)), server.result(2))]
    first, failed, last = call(method, [b"a", b"b", b"c"])
    assert isinstance(first, kind)
    assert isinstance(last, kind)
    assert isinstance(failed, Failed)
    assert failed.image.index == 1
    assert isinstance(failed.error, errors.InvalidImage)
    assert (failed.error.status, failed.error.details) == (400, {"frames": 0})


@pytest.mark.parametrize("method", ["explain", "predict"])
def test_one_failed_picture_raises(call: Any, server: Any, method: str) -> None:
    server.answers = [server.answer(server.result(**a_failure(server)))]
    with pytest.raises(errors.InvalidImage, match=r"Said why\."):
        call(method, b"bytes")


def test_a_wrong_number_of_answers_is_noticed(call: Any, server: Any) -> None:
    server.answers = [server.answer(server.result(0), server.result(1))]
    with pytest.raises(UnexpectedResponse):
        call("explain", b"bytes")


def a_list(**members: Any) -> httpx.Response:
    return httpx.Response(200, json=members)


def test_catalogues(call: Any, server: Any) -> None:
    entry = {"name": "m", "state": "ready", "reason": None, "default": True, "architecture": "resnet50"}
    server.answers = [a_list(default="m", models=[entry]), httpx.Response(200, json=entry)]
    assert call("models").models[0].name == "m"
    assert call("model", "m/1").state == "ready"
    assert [request.url.raw_path for request in server.requests] == [b"/api/v1/models", b"/api/v1/models/m%2F1"]
    server.answers = [a_list(default="gradcam", methods=[])]
    assert call("methods").default == "gradcam"
    assert server.requests[-1].url.path == "/api/v1/methods"
    server.answers = [a_list(default="turbo", colormaps=[{"name": "turbo", "kind": "sequential"}])]
    assert call("colormaps").colormaps[0].name == "turbo"
    assert server.requests[-1].url.path == "/api/v1/colormaps"


def test_layers(call: Any, server: Any) -> None:
    layers = a_list(model="m", input={"height": 2, "width": 2}, default="layer4", layers=[])
    server.answers = [layers]
    assert call("layers", "m", explainable=True, kind="block").default == "layer4"
    assert server.requests[-1].url == "http://127.0.0.1:8000/api/v1/models/m/layers?explainable=true&kind=block"
    server.answers = [a_list(default="other", models=[]), layers]
    call("layers")
    assert server.requests[-1].url == "http://127.0.0.1:8000/api/v1/models/other/layers"


def test_classes(call: Any, server: Any) -> None:
    classes = a_list(model="m", total=1000, classes=[{"index": 281, "label": "tabby cat"}])
    server.answers = [a_list(default="m", models=[]), classes]
    assert call("classes", "cat & dog", limit=2).classes[0].index == 281
    assert server.requests[-1].url == "http://127.0.0.1:8000/api/v1/models/m/classes?q=cat+%26+dog&limit=2"
    server.answers = [classes]
    call("classes", "cat", model="m", head="fine")
    assert server.requests[-1].url == "http://127.0.0.1:8000/api/v1/models/m/classes?q=cat&head=fine"


def test_importing_the_client_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'PIL', 'fastapi', 'starlette'}"
    code = f"import sys, service.client; sys.exit(str({heavy} & set(sys.modules) or ''))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
