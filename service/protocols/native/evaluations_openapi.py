"""What the OpenAPI document says of evaluations: their form, answers and errors. Tests hold it against the wire."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from service.errors import (
    EvaluationNotDone,
    InvalidOption,
    NoImage,
    TooManyEvaluations,
    TooManyImages,
    UnknownEvaluation,
    UnsupportedMediaType,
)
from service.http.examples import ErrorExample
from service.problems import problem_body, status_of
from service.protocols import EXAMPLE_REQUEST_ID
from service.wire_evaluation import EvaluationOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.protocols import Operation

__all__ = ["ANSWERS", "FORM", "complete"]

_ID = "01M8M517XD1M8CBHZWXDCDBQ12"
_RUNNING: dict[str, Any] = {
    "id": _ID,
    "state": "running",
    "progress": 0.42,
    "eta_s": 81.0,
    "stage": "taking pixels away",
    "reason": None,
    "model": "resnet50",
    "images": 24,
    "created": 1795972702.404,
    "ended": None,
    "restarts": 0,
    "kept": False,
    "note": "It ends with the service, which keeps nothing: data_dir is not set. What comes out is there for 24 h.",
    "skipped": [
        {"name": "notes.txt", "code": "invalid_image", "text": "The bytes are not a picture in a known format."}
    ],
    "result": None,
}
_SCORES = {"road": {"mean": 0.31, "low": 0.27, "high": 0.35, "n": 24}}
_RESULT = {
    "camserve": "0.1.0",
    "model": {"name": "resnet50", "version": "IMAGENET1K_V2", "digest": "11ad3fa62ce13a2f"},
    "seed": 0,
    "images": 24,
    "rows": [
        {
            "layer": "layer4",
            "method": "gradcam",
            "metrics": _SCORES,
            "gates": {"dead": 0.0, "padding": 0.0, "beats_random": True, "class_sensitive": True},
            "excluded": None,
            "same_as": None,
        }
    ],
    "recommendations": [
        {
            "purpose": "faithfulness",
            "layer": "layer4",
            "method": "gradcam",
            "ties": ["layer4"],
            "text": "For showing what the model uses, layer4 is best on these 24 pictures.",
            "none_because": None,
            "images": 24,
        }
    ],
    "warnings": [{"code": "map_outside_object", "text": "On 3 pictures the map lies outside the annotated object."}],
    "baselines": [{"name": "random", "metrics": _SCORES}],
}
_DONE = {**_RUNNING, "state": "done", "progress": 1.0, "eta_s": None, "stage": None, "ended": 1795972842.1}
_QUEUED = {**_RUNNING, "state": "queued", "progress": 0.0, "eta_s": None, "stage": None}

ANSWERS: Mapping[str, Any] = {
    "evaluate": _QUEUED,
    "evaluation_list": {"evaluations": [{**each, "skipped": []} for each in (_DONE, _RUNNING)]},
    "evaluation": {**_DONE, "result": _RESULT},
}
"""By operation id."""

FORM: Mapping[str, Any] = {
    "image": ["@cats/1.jpg", "@cats/2.jpg"],
    "annotations": "@coco.json",
    "layer": ["layer3", "layer4"],
    "method": ["gradcam"],
    "purpose": ["class", "localisation"],
    "seed": 0,
}

_UNKNOWN = ErrorExample(
    "There is none of this id, or it is another key's.",
    UnknownEvaluation("There is no evaluation of this id. GET /api/v1/evaluations lists yours."),
)
_NOT_DONE = ErrorExample(
    "It has no report yet, or never will have one.",
    EvaluationNotDone("This evaluation is running: it has no report. GET the evaluation says more."),
)
_REFUSED = (
    ErrorExample("There is no picture that can be used.", NoImage("The request carries no picture.")),
    ErrorExample(
        "There are too many files, too many bytes, or it would take too many passes of the model.",
        TooManyImages("There are too many files 'image'; send 1000 at most."),
    ),
    ErrorExample(
        "The body is no form.",
        UnsupportedMediaType("Send this as multipart/form-data. With curl: -F image=@FILE, once for each picture."),
    ),
    ErrorExample(
        "An option is unknown or out of range, or what is marked cannot be used.",
        InvalidOption("Nothing that is marked is about these pictures: file names must be the same, such as cat.jpg."),
    ),
    ErrorExample(
        "As many evaluations wait or run as may, or the API key has used up what it may ask.",
        TooManyEvaluations("16 evaluations wait or run, and more may not.", retry_after_s=60),
    ),
)
_EVENT = {
    "type": "object",
    "description": "Of each event; `data` is an Evaluation in JSON, without its result.",
    "properties": {"event": {"enum": ["progress", "done"]}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
_FILE = {"type": "string", "format": "binary"}


def complete(operation: Operation, error_schema: Mapping[str, Any]) -> None:
    """Complete one of the operations."""
    name, responses = operation.fields["operationId"], operation.fields["responses"]
    if name == "evaluate":
        _describe_form(operation.fields)
        responses.pop("504", None)
        _add(responses, _REFUSED, error_schema)
    else:
        responses.pop("422", None)
    if "{evaluation}" in operation.path:
        _add(responses, (_UNKNOWN, *((_NOT_DONE,) if name == "evaluation_report" else ())), error_schema)
    elif name == "evaluation_list":
        responses.pop("404", None)
    if name in ANSWERS:
        responses["202" if name == "evaluate" else "200"]["content"]["application/json"]["example"] = ANSWERS[name]
    if name == "evaluation_report":
        responses["200"]["content"] = {"text/html": {"schema": {"type": "string"}}}
    if name == "evaluation_events":
        event = f"event: progress\ndata: {json.dumps({'id': _ID, 'state': 'running', 'progress': 0.42})}\n\n"
        responses["200"]["content"] = {"text/event-stream": {"schema": dict(_EVENT), "example": event}}


def _add(responses: dict[str, Any], errors: tuple[ErrorExample, ...], error_schema: Mapping[str, Any]) -> None:
    for each in errors:
        body, media_type = problem_body(each.error, EXAMPLE_REQUEST_ID)
        responses[str(status_of(each.error))] = {
            "description": each.description,
            "content": {media_type: {"schema": dict(error_schema), "example": json.loads(body)}},
        }


def _describe_form(fields: dict[str, Any]) -> None:
    files = {
        "image": {"type": "array", "items": _FILE, "minItems": 1, "description": "The pictures."},
        "mask": {
            "type": "array",
            "items": _FILE,
            "description": "Grey pictures that are white where the object is, of the same file name and size.",
        },
        "annotations": {**_FILE, "description": "A file of COCO, in place of masks; pictures are found by file name."},
    }
    options = EvaluationOptions.model_json_schema()["properties"]
    schema = {
        "type": "object",
        "properties": {**files, **options},
        "required": ["image"],
        "additionalProperties": False,
    }
    fields["requestBody"] = {
        "required": True,
        "content": {"multipart/form-data": {"schema": schema, "example": dict(FORM)}},
    }
