"""Examples in the OpenAPI document: what goes in and what comes out. Tests hold them against the models of the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import (
    DeadlineExceeded,
    Forbidden,
    HeadersTooLarge,
    ImageTooLarge,
    InternalError,
    InvalidImage,
    NotReady,
    Overloaded,
    RequestTimeout,
    Unauthorized,
    UnknownLayer,
    UnknownModel,
    UnsupportedMediaType,
)
from service.problems import problem_for, status_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.errors import ServiceError

__all__ = ["ANSWERS", "FORMS", "PROBLEMS", "REQUESTS"]

_REQUEST_ID = "01K0Z3V9E0Q6J6W9X0T8B6C7DM"
_IMAGES = [{"b64": "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQ…", "filename": "cat.jpg"}]
_IMAGE = {
    "index": 0,
    "filename": "cat.jpg",
    "width": 640,
    "height": 480,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
_VIEW = {"left": 106.7, "top": 26.7, "right": 533.3, "bottom": 453.3}
_TABBY = {"index": 281, "label": "tabby", "probability": 0.61, "logit": 12.3}
_PREDICTION = {"rank": 1, **_TABBY}
_TIMING = {
    "total_ms": 31.4,
    "decode_ms": 4.1,
    "queue_ms": 0.3,
    "compute_ms": 22.8,
    "render_ms": 3.6,
    "batch_size": 1,
}
_MODEL = {
    "name": "resnet50",
    "state": "ready",
    "reason": None,
    "default": True,
    "version": "IMAGENET1K_V2",
    "architecture": "resnet50",
    "input": {"height": 224, "width": 224},
    "preprocessing": {
        "mode": "crop",
        "resize": 232,
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "classes": 1000,
    "default_layer": "layer4",
    "methods": ["gradcam"],
    "refused_methods": {"legrad": "it needs a transformer with a class token whose blocks use nn.MultiheadAttention"},
    "multi_label": False,
    "heads": {},
    "default_head": None,
    "device": "cuda:0",
    "dtype": "float32",
    "parameters": 25557032,
}
_EXPLANATION = {
    "layer": "layer4",
    "method": "gradcam",
    "target": _TABBY,
    "against": None,
    "empty": False,
    "reason": None,
    "note": None,
    "signed": False,
    "minimum": 0.0,
    "sum": 21.4,
    "maximum": 3.71,
    "peak": {"x": 301.5, "y": 220.5},
    "heatmap": {"media_type": "image/png", "width": 640, "height": 480, "data": "iVBORw0KGgo…"},
    "overlay": None,
    "mask": None,
    "map": {"dtype": "float32", "shape": [7, 7], "data": "AAAAAEP5xD0…"},
    "regions": [
        {
            "box": {"left": 230.1, "top": 150.2, "right": 380.6, "bottom": 310.9},
            "polygon": [[230.1, 200.4], [301.5, 150.2], [380.6, 240.7], [290.3, 310.9]],
            "score": 1.0,
            "area": 0.08,
        }
    ],
}


def _answer(*explanations: Any) -> dict[str, Any]:
    return {
        "id": _REQUEST_ID,
        "model": {"name": "resnet50", "version": "IMAGENET1K_V2"},
        "results": [
            {
                "image": _IMAGE,
                "view": _VIEW,
                "predictions": [_PREDICTION],
                "explanations": list(explanations),
                "error": None,
            }
        ],
        "timing": _TIMING,
    }


_EXPLAINED, _PREDICTED = _answer(_EXPLANATION), _answer()

# By name of the model that describes the body.
REQUESTS: Mapping[str, Any] = {
    "ExplainRequest": {
        "images": _IMAGES,
        "layer": ["layer4"],
        "target": ["predicted", "tiger cat"],
        "output": ["heatmap", "map", "regions"],
    },
    "PredictRequest": {"images": _IMAGES, "top_k": 3},
}
FORMS: Mapping[str, Any] = {
    "ExplainRequest": {"image": ["@cat.jpg"], "layer": ["layer4"], "target": ["281", "top-3"]},
    "PredictRequest": {"image": ["@cat.jpg", "@dog.jpg"], "top_k": 3},
}

# By operation id.
ANSWERS: Mapping[str, Any] = {
    "explain": _EXPLAINED,
    "explain_with": _EXPLAINED,
    "predict": _PREDICTED,
    "predict_with": _PREDICTED,
    "models": {"default": "resnet50", "models": [_MODEL]},
    "model": _MODEL,
    "layers": {
        "model": "resnet50",
        "input": {"height": 224, "width": 224},
        "default": "layer4",
        "layers": [
            {
                "name": "layer4",
                "type": "Sequential",
                "kind": "block",
                "shape": [2048, 7, 7],
                "stride": 32,
                "order": 154,
                "explainable": True,
                "recommended": True,
                "note": None,
            },
            {
                "name": "avgpool",
                "type": "AdaptiveAvgPool2d",
                "kind": "pool",
                "shape": [2048, 1, 1],
                "stride": 224,
                "order": 155,
                "explainable": False,
                "recommended": False,
                "note": "1×1 output: no position is left to show",
            },
        ],
    },
    "classes": {"model": "resnet50", "total": 1000, "classes": [{"index": 282, "label": "tiger cat"}]},
    "methods": {
        "default": "gradcam",
        "methods": [
            {
                "name": "gradcam",
                "title": "Grad-CAM",
                "summary": "Where the channels that speak for the class are active.",
                "paper": "https://arxiv.org/abs/1610.02391",
                "needs_gradients": True,
                "class_specific": True,
                "signed": True,
                "uses_layer": True,
                "forwards": 1.0,
            }
        ],
    },
    "colormaps": {
        "default": "turbo",
        "colormaps": [
            {"name": "turbo", "kind": "sequential", "table": "MBI7MRVCMhhJ…"},
            {"name": "coolwarm", "kind": "diverging", "table": "O0zAPE7BPU/D…"},
        ],
    },
    "livez": {"status": "alive"},
    "readyz": {
        "status": "ready",
        "models": {"resnet50": "ready"},
        "workers": [{"pid": 4242, "device": "cuda:0", "models": ["resnet50"], "batches": 1}],
    },
    "version": {"name": "camserve", "version": "0.1.0", "api": "v1"},
}

_ERRORS: tuple[ServiceError, ...] = (
    InvalidImage("The bytes are not a picture in a known format. Send a JPEG, PNG, WebP, GIF, BMP or TIFF file."),
    Unauthorized("Send an API key that this service knows, as the header 'Authorization: Bearer KEY'."),
    Forbidden("This needs an API key with the scope 'infer', which yours lacks.", scope="infer"),
    UnknownModel.among("resnet5", ["resnet50"]),
    RequestTimeout("The head of the request took longer than 10 s. Send it faster."),
    ImageTooLarge("The picture has 100,000,000 pixels (10000 × 10000); the limit is 64,000,000. Send a smaller one."),
    UnsupportedMediaType("Send pictures as multipart/form-data, as application/json, or as the body itself."),
    UnknownLayer.among("layer44", ["layer4"], model="resnet50"),
    Overloaded("The queue is full: 128 of 128 pictures are waiting. Try again later.", retry_after_s=3),
    HeadersTooLarge("The request's line and headers have more than 65536 bytes. Send fewer."),
    InternalError("Something went wrong here; the log has the reason."),
    NotReady("Model 'resnet50' is being loaded. Try again in a few seconds.", retry_after_s=2),
    DeadlineExceeded("The answer was not ready within 30 s."),
)

# By status.
PROBLEMS: Mapping[str, Any] = {
    str(status_of(error)): problem_for(error, _REQUEST_ID).model_dump(exclude_none=True) for error in _ERRORS
}
