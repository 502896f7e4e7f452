"""The protocol's part of the OpenAPI document: bodies and answers that its routes handle themselves, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequest, ManagementOff, ModelBusy, ModelLoadError
from service.http.examples import BODY_ERRORS, READING_ERRORS, TIMEOUT_HEADER, ErrorExample
from service.problems import status_of
from service.protocols import OpenApiPart
from service.protocols.open_inference.requests import OUTPUTS

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["ANSWERS", "OPENAPI", "REQUEST"]

_DESCRIPTION = """\
The Open Inference Protocol (KServe V2, `/v2/models/{model}/infer`) is spoken with binary tensors, statistics and the
other extensions of Triton that its clients use; errors are `{"error": "…"}`."""

_STRING, _INTEGER = {"type": "string"}, {"type": "integer"}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": _STRING}}
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}


def _object(*optional: str, **properties: Any) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": properties}


def _list(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item}


_SHAPE = _list(_INTEGER)
_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {**_STRING, "maxLength": 1024, "description": "Comes back."},
        "parameters": {
            **_PARAMETERS,
            "description": "Options by their names in the native API (`layer`, `target`, `method`, `top_k`, `size` …); "
            "`timeout` in microseconds, which shortens the deadline; `priority` (0 and 1 first); `binary_data_output`.",
        },
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "description": "`image`: BYTES [n], files in base64. `target`, if you like: BYTES or INT64 [n], a class "
            "for each.",
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype"],
                "properties": {
                    "name": {"enum": ["image", "target"]},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "datatype": {"enum": ["BYTES", "INT64", "INT32"]},
                    "parameters": {"type": "object"},
                    "data": {"type": "array", "items": {}},
                },
            },
        },
        "outputs": {
            "type": "array",
            "description": "What is computed; `heatmap`, `class_id`, `score` and `label` where it is left out.",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {
                        "enum": list(OUTPUTS),
                    },
                    "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
                },
            },
        },
        "model_name": _STRING,
        "model_version": _STRING,
    },
    "additionalProperties": False,
}
_TENSOR = _object(
    "data",
    "parameters",
    name=_STRING,
    datatype=_STRING,
    shape=_SHAPE,
    data={"type": "array", "items": {}},
    parameters={"type": "object"},
)
_DESCRIBED = _list(_object(name=_STRING, datatype=_STRING, shape=_SHAPE))
_METADATA = _object(name=_STRING, versions=_list(_STRING), platform=_STRING, inputs=_DESCRIBED, outputs=_DESCRIBED)
_READY = _object(name=_STRING, ready={"type": "boolean"})
_CONFIG = _object(
    name=_STRING,
    platform=_STRING,
    backend=_STRING,
    max_batch_size=_INTEGER,
    input=_list({"type": "object"}),
    output=_list({"type": "object"}),
)
_STATISTICS = _object(
    model_stats=_list(
        _object(
            name=_STRING,
            version=_STRING,
            inference_count=_INTEGER,
            execution_count=_INTEGER,
            inference_stats={"type": "object"},
            batch_stats=_list({"type": "object"}),
        )
    )
)
_INDEX = _list(_object(name=_STRING, version=_STRING, state={"enum": ["READY", "UNAVAILABLE"]}, reason=_STRING))
_SCHEMAS: dict[str, Any] = {
    "v2_server": _object(name=_STRING, version=_STRING, extensions=_list(_STRING)),
    "v2_live": _object(live={"type": "boolean"}),
    "v2_ready": _object(ready={"type": "boolean"}),
    "v2_models": _object(models=_list(_STRING)),
    "v2_model": _METADATA,
    "v2_model_ready": _READY,
    "v2_infer": _object("id", id=_STRING, model_name=_STRING, model_version=_STRING, outputs=_list(_TENSOR)),
    "v2_config": _CONFIG,
    "v2_statistics": _STATISTICS,
    "v2_index": _INDEX,
    "v2_load": _object(),
    "v2_unload": _object(),
}
_SAME = {
    "v2_version": "v2_model",
    "v2_version_ready": "v2_model_ready",
    "v2_infer_version": "v2_infer",
    "v2_version_config": "v2_config",
    "v2_version_statistics": "v2_statistics",
    "v2_all_statistics": "v2_statistics",
}
_TOOK = {"count": 1, "ns": 22_800_000}

REQUEST = {
    "id": "42",
    "inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["/9j/4AAQSkZJRgABAQ…"]}],
    "parameters": {"layer": "layer4", "top_k": 1},
    "outputs": [{"name": "label"}, {"name": "score"}],
}
ANSWERS: dict[str, Any] = {
    "v2_server": {"name": "camserve", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
    "v2_live": {"live": True},
    "v2_ready": {"ready": True},
    "v2_models": {"models": ["resnet50"]},
    "v2_model": {
        "name": "resnet50",
        "versions": ["IMAGENET1K_V2"],
        "platform": "camserve_torchvision",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": "heatmap", "datatype": "FP32", "shape": [-1, -1, -1]}],
    },
    "v2_model_ready": {"name": "resnet50", "ready": True},
    "v2_infer": {
        "id": "42",
        "model_name": "resnet50",
        "model_version": "IMAGENET1K_V2",
        "outputs": [
            {"name": "label", "datatype": "BYTES", "shape": [1, 1], "data": ["tabby"]},
            {"name": "score", "datatype": "FP32", "shape": [1, 1], "data": [0.61]},
        ],
    },
    "v2_config": {
        "name": "resnet50",
        "platform": "camserve_torchvision",
        "backend": "camserve",
        "max_batch_size": 0,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [-1]}],
        "output": [{"name": "heatmap", "data_type": "TYPE_FP32", "dims": [-1, -1, -1]}],
    },
    "v2_statistics": {
        "model_stats": [
            {
                "name": "resnet50",
                "version": "IMAGENET1K_V2",
                "inference_count": 1,
                "execution_count": 1,
                "inference_stats": {"success": _TOOK},
                "batch_stats": [{"batch_size": 1, "compute_infer": _TOOK}],
            }
        ]
    },
    "v2_index": [{"name": "resnet50", "version": "IMAGENET1K_V2", "state": "READY", "reason": ""}],
    "v2_load": {},
    "v2_unload": {},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_LENGTH_HEADER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "How many bytes of the body are JSON; binary tensors stand behind them. 0: the body is a picture.",
    "schema": {"type": "integer", "minimum": 0},
}


_MANAGEMENT_ERRORS = (
    ErrorExample(
        "The key lacks the scope, or models are not changed here.",
        ManagementOff("Models are not changed over HTTP here. Set 'management' to allow it."),
    ),
    ErrorExample(
        "Another version is being loaded, or the model is the default one.",
        ModelBusy("A version of model 'birds' is being loaded. Wait until it is ready, or has failed."),
    ),
    ErrorExample(
        "The model cannot be loaded.",
        ModelLoadError("There is no architecture 'resnet5'. The version before it goes on answering."),
    ),
)


def _complete(operation: Operation) -> None:
    name = operation.fields["operationId"]
    name = _SAME.get(name, name)
    responses = operation.fields["responses"]
    content = responses["200"].setdefault("content", {})
    content["application/json"] = {"schema": _SCHEMAS[name], "example": ANSWERS[name]}
    if name == "v2_ready":
        responses["503"] = {
            "description": "No model can answer, or the service drains.",
            "content": {"application/json": {"schema": _SCHEMAS[name], "example": {"ready": False}}},
        }
    if name == "v2_index":
        body = {"schema": _object("ready", ready={"type": "boolean"}), "example": {"ready": True}}
        operation.fields["requestBody"] = {"required": False, "content": {"application/json": body}}
    if name in {"v2_load", "v2_unload"}:
        body = {"schema": _object("parameters", parameters={"type": "object"}), "example": {"parameters": {}}}
        operation.fields["requestBody"] = {"required": False, "content": {"application/json": body}}
        for each in _MANAGEMENT_ERRORS:
            content = {"application/json": {"schema": _ERROR, "example": {"error": each.error.message}}}
            responses[str(status_of(each.error))] = {"description": each.description, "content": content}
    if name == "v2_infer":
        content["application/octet-stream"] = _BINARY
        parameters = operation.fields.get("parameters", [])
        operation.fields["parameters"] = [*parameters, dict(_LENGTH_HEADER), dict(TIMEOUT_HEADER)]
        operation.fields["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": _BODY, "example": REQUEST},
                "application/octet-stream": _BINARY,
            },
        }


OPENAPI = OpenApiPart(
    description=_DESCRIPTION,
    errors={
        "get": READING_ERRORS,
        "post": (
            *BODY_ERRORS,
            ErrorExample(
                "The body, a tensor or a picture cannot be read.",
                InvalidRequest("Input 'image' has 2 elements, and its shape says 3."),
            ),
        ),
    },
    error_schema=_ERROR,
    complete=_complete,
)
