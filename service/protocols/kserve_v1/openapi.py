"""V1's part of the OpenAPI document: bodies and answers that its routes handle themselves, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequest
from service.http.examples import BODY_ERRORS, READING_ERRORS, TIMEOUT_HEADER, ErrorExample
from service.protocols import EXAMPLE_REQUEST_ID, OpenApiPart

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["ANSWERS", "OPENAPI", "REQUEST", "complete"]

_DESCRIPTION = """\
KServe's V1 protocol (`/v1/models/{model}:predict` and `:explain`) is spoken for its clients, and for those of
TensorFlow Serving; errors are `{"error": "…"}`."""

_PICTURE = {
    "description": 'A picture\'s file in base64 (a data URI is accepted), as `{"b64": "…"}` or as it is; or its '
    "pixels as nested lists, 0 to 255.",
    "anyOf": [
        {"type": "object", "required": ["b64"], "properties": {"b64": {"type": "string"}}},
        {"type": "string"},
        {"type": "array", "items": {}},
    ],
}
_INSTANCE = {
    "description": "A picture; or an object that has it as `image`, `image_bytes`, `data`, `content`, `b64`, or as the "
    "only member with a `b64`, beside options of its own: those of the native API, and `class_id` for `target`.",
    "anyOf": [
        {"type": "object", "properties": {"image": _PICTURE, "key": {"description": "Comes back."}}},
        *_PICTURE["anyOf"][1:],
    ],
}
_BODY = {
    "type": "object",
    "required": ["instances"],
    "properties": {
        "instances": {"type": "array", "minItems": 1, "items": _INSTANCE},
        "parameters": {
            "type": "object",
            "description": "Options of all instances, by their names in the native API; also `class_id`, and Vertex "
            "AI's `maxPredictions` and `confidenceThreshold`. `output` is `overlay` where it is not given.",
        },
        "signature_name": {"description": "Not read."},
        "deployedModelId": {"description": "Not read."},
        "deployed_model_id": {"description": "Not read."},
    },
    "additionalProperties": False,
}
_ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
_NUMBER, _STRING = {"type": "number"}, {"type": "string"}
_CLASS = {
    "type": "object",
    "required": ["index", "label", "probability", "logit"],
    "properties": {"index": {"type": "integer"}, "label": _STRING, "probability": _NUMBER, "logit": _NUMBER},
}
_SCORES = {"description": "Where `scores` are asked for.", "$ref": "#/components/schemas/ScoreData"}
_PREDICTION = {
    "anyOf": [
        {
            "type": "object",
            "required": ["classes", "ids", "displayNames", "confidences"],
            "properties": {
                "classes": {"type": "array", "items": _CLASS},
                "ids": {"type": "array", "items": _STRING},
                "displayNames": {"type": "array", "items": _STRING},
                "confidences": {"type": "array", "items": _NUMBER},
                "scores": _SCORES,
                "key": {},
            },
        },
        _ERROR,
    ]
}
_ATTRIBUTION = {
    "type": "object",
    "required": ["outputIndex", "outputDisplayName", "instanceOutputValue", "featureAttributions", "layer", "method"],
    "properties": {
        "outputIndex": {"type": "array", "items": {"type": "integer"}},
        "outputDisplayName": _STRING,
        "instanceOutputValue": {**_NUMBER, "description": "The logit."},
        "outputName": _STRING,
        "featureAttributions": {
            "type": "object",
            "properties": {
                "image": {
                    "type": "object",
                    "description": "`b64_jpeg` (or `b64_png`, `b64_webp`): the overlay.",
                    "additionalProperties": _STRING,
                }
            },
        },
        "layer": _STRING,
        "method": _STRING,
        "target": _CLASS,
        "against": {"anyOf": [_CLASS, {"type": "null"}]},
        "scores": _SCORES,
        "verification": {
            "description": "Where `verify` is asked for.",
            "$ref": "#/components/schemas/Verification",
        },
    },
}
_EXPLANATION = {
    "anyOf": [
        {
            "type": "object",
            "required": ["attributions"],
            "properties": {"attributions": {"type": "array", "items": _ATTRIBUTION}},
        },
        _ERROR,
    ]
}
_ABOUT = {"deployedModelId": _STRING, "modelVersionId": _STRING, "id": _STRING}


def _lists(**items: Any) -> dict[str, Any]:
    lists = {name: {"type": "array", "items": item} for name, item in items.items()}
    return {"type": "object", "required": list(lists), "properties": {**lists, **_ABOUT}}


_READY = {
    "type": "object",
    "required": ["name", "ready"],
    "properties": {"name": _STRING, "ready": {"const": True}},
}
_SCHEMAS = {
    "v1_models": {
        "type": "object",
        "required": ["models"],
        "properties": {"models": {"type": "array", "items": _STRING}},
    },
    "v1_model": _READY,
    "v1_version": _READY,
    "v1_predict": _lists(predictions=_PREDICTION),
    "v1_explain": _lists(explanations=_EXPLANATION, predictions=_PREDICTION),
}
_TABBY = {"index": 281, "label": "tabby", "probability": 0.61, "logit": 12.3}
_PREDICTIONS = [{"classes": [_TABBY], "ids": ["281"], "displayNames": ["tabby"], "confidences": [0.61]}]
_ATTRIBUTIONS = [
    {
        "outputIndex": [281],
        "outputDisplayName": "tabby",
        "instanceOutputValue": 12.3,
        "outputName": "logits",
        "featureAttributions": {"image": {"b64_jpeg": "/9j/4AAQSkZJRgABAQ…"}},
        "layer": "layer4",
        "method": "gradcam",
        "target": _TABBY,
        "against": None,
        "empty": False,
        "reason": None,
        "note": None,
        "minimum": 0.0,
        "maximum": 3.71,
        "peak": {"x": 301.5, "y": 220.5},
    }
]
_MODEL = {"deployedModelId": "resnet50", "modelVersionId": "IMAGENET1K_V2", "id": EXAMPLE_REQUEST_ID}

REQUEST = {"instances": [{"image": {"b64": "/9j/4AAQSkZJRgABAQ…"}, "target": "tabby"}], "parameters": {"top_k": 1}}
ANSWERS = {
    "v1_models": {"models": ["resnet50"]},
    "v1_model": {"name": "resnet50", "ready": True},
    "v1_version": {"name": "resnet50", "ready": True},
    "v1_predict": {"predictions": _PREDICTIONS, **_MODEL},
    "v1_explain": {
        "explanations": [{"attributions": _ATTRIBUTIONS}],
        "predictions": _PREDICTIONS,
        **_MODEL,
    },
}


def _complete(operation: Operation) -> None:
    name = operation.fields["operationId"].removesuffix("_version")
    complete(operation, "v1_version" if name == "v1" else name)


def complete(operation: Operation, name: str) -> None:
    """Give an operation the bodies of the one that is called ``name`` here."""
    answer = operation.fields["responses"]["200"].setdefault("content", {}).setdefault("application/json", {})
    answer |= {"schema": _SCHEMAS[name], "example": ANSWERS[name]}
    if operation.method != "post":
        return
    operation.fields["parameters"] = [*operation.fields.get("parameters", []), dict(TIMEOUT_HEADER)]
    operation.fields["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": _BODY, "example": REQUEST}},
    }


OPENAPI = OpenApiPart(
    description=_DESCRIPTION,
    errors={
        "get": READING_ERRORS,
        "post": (
            *BODY_ERRORS,
            ErrorExample(
                "Not JSON, no instances; or every instance is no picture.",
                InvalidRequest('The body is not a JSON object such as {"instances": [{"image": {"b64": "…"}}]}.'),
            ),
        ),
    },
    error_schema=_ERROR,
    complete=_complete,
)
