"""Awkward amounts of what the schema allows, for every way to ask: it bounds each option, and not their product."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from tests.protocols.label_studio.wire import EVERYTHING, asked, task, uri
from tests.protocols.native.pictures import star

if TYPE_CHECKING:
    from collections.abc import Callable

    Multiply = Callable[[Any, st.DrawFn], None]

__all__ = ["AMOUNTS", "TOO_LITTLE_MS"]

TOO_LITTLE_MS = "500"

_MUCH: dict[str, list[Any]] = {
    "layer": ["layer2", "default", "stem.0"],
    "target": ["top-5", "predicted", "star"],
    "method": ["scorecam", "eigengradcam", "gradcam"],
    "output": ["overlay", "mask", "regions"],
    "max_side": [8192, 16],
    "smooth": [64],
    "augment": ["flip"],
    "image_format": ["png"],
}
_REPEATABLE = ("layer", "target", "method", "output")


def _several(draw: st.DrawFn, most: int = 32) -> int:
    return draw(st.sampled_from([1, 8, most]))


def _options(draw: st.DrawFn, *without: str) -> dict[str, Any]:
    """Multiply what may be repeated, and take the most of what is a number."""
    found: dict[str, Any] = {}
    for name, values in _MUCH.items():
        if name not in without and draw(st.booleans()):
            value = draw(st.sampled_from(values))
            many = draw(st.sampled_from([1, 2, 8, 60]))
            found[name] = [value] * many if name in _REPEATABLE else value
    return found


def _in_time_for_little(case: Any) -> None:
    case.headers["X-Request-Timeout-Ms"] = TOO_LITTLE_MS


def _native(case: Any, draw: st.DrawFn) -> None:
    case.query = {**(case.query or {}), **_options(draw)}
    _several_pictures(case, draw)


def _several_pictures(case: Any, draw: st.DrawFn) -> None:
    if case.media_type == "multipart/form-data":
        case.body = {"image": [star()] * _several(draw)}
    _in_time_for_little(case)


def _instances(case: Any, draw: st.DrawFn) -> None:
    one = {"image": {"b64": base64.b64encode(star()).decode()}}
    parameters = _options(draw, "output") if case.operation.label.endswith("explain") else {}
    case.body = {"instances": [one] * _several(draw), "parameters": parameters}
    _in_time_for_little(case)


def _tensors(case: Any, draw: st.DrawFn) -> None:
    number = _several(draw)
    data = [base64.b64encode(star()).decode()] * number
    outputs = draw(st.sampled_from([["heatmap"], ["overlay", "class_id"], ["heatmap", "overlay", "score"]]))
    case.body = {
        "inputs": [{"name": "image", "shape": [number], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": name} for name in outputs],
        "parameters": _options(draw, *_REPEATABLE) | {"method": draw(st.sampled_from(_MUCH["method"]))},
    }
    case.media_type = "application/json"
    case.headers.pop("Inference-Header-Content-Length", None)
    _in_time_for_little(case)


def _one_map(case: Any, draw: st.DrawFn) -> None:
    """A picture may have several layers, which are fused, and has one map."""
    case.query = _options(draw, "output", "target", "method")
    case.query["method"] = draw(st.sampled_from(_MUCH["method"]))
    case.body = star()
    case.media_type = "application/octet-stream"
    _in_time_for_little(case)


def _tasks(case: Any, draw: st.DrawFn) -> None:
    tasks = [task(number, uri(star())) for number in range(_several(draw, 60))]
    controls = (
        EVERYTHING if draw(st.booleans()) else EVERYTHING.replace('toName="image"', 'toName="image" smart="false"')
    )
    case.body = asked(tasks, controls)


def _points(case: Any, draw: st.DrawFn) -> None:
    many = _several(draw, 5000)
    case.headers["x-nuclio-function-name"] = f"shapes-{draw(st.sampled_from(['click', 'polygon', 'mask']))}"
    case.body = {
        "image": base64.b64encode(star()).decode(),
        "pos_points": [[90, 90]] * many,
        "neg_points": [[5, 5]] * many,
    }


def _measured(case: Any, draw: st.DrawFn) -> None:
    layers = ["layer1", "layer2", "layer3", "layer4"]
    methods = ["gradcam", "scorecam", "ablationcam", "layercam", "eigencam"]
    case.body = {
        "image": [star()] * _several(draw, 200),
        "layer": layers[: draw(st.integers(1, 4))],
        "method": methods[: draw(st.integers(1, 5))],
    }


AMOUNTS: dict[str, Multiply] = {
    "POST /api/v1/explain": _native,
    "POST /api/v1/models/{model}/explain": _native,
    "POST /api/v1/models/{model}/versions/{version}/explain": _native,
    "POST /api/v1/predict": _several_pictures,
    "POST /v1/models/{model}:explain": _instances,
    "POST /v1/models/{model}:predict": _instances,
    "POST /v1/projects/{project}/locations/{location}/endpoints/{endpoint}:explain": _instances,
    "POST /v2/models/{model}/infer": _tensors,
    "POST /predictions/{model}": _one_map,
    "POST /explanations/{model}": _one_map,
    "POST /integrations/label-studio/predict": _tasks,
    "POST /integrations/cvat/api/function_invocations": _points,
    "POST /api/v1/evaluations": _measured,
}
"""What asks for much, by operation; those that differ by a model or version in their path alone are left out."""
