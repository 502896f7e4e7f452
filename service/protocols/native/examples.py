"""Examples in the native API's part of the OpenAPI document. Tests hold them against the models of the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import (
    BodyTooLarge,
    InvalidRequest,
    ModelBusy,
    ModelLoadError,
    PathNotAllowed,
    RequestTimeout,
)
from service.http.examples import ErrorExample
from service.protocols import EXAMPLE_REQUEST_ID

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["ANSWERS", "CONFIGURATION", "FORMS", "MANAGEMENT_ERRORS", "REQUESTS"]

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
_CERTAINTY = {
    "entropy": 0.31,
    "margin": 0.52,
    "mass_inside": None,
    "flip_stability": None,
    "layer_agreement": None,
}
_TIMING = {
    "total_ms": 31.4,
    "decode_ms": 4.1,
    "queue_ms": 0.3,
    "compute_ms": 22.8,
    "render_ms": 3.6,
    "batch_size": 1,
}
_VERSION = {
    "version": "IMAGENET1K_V2",
    "state": "ready",
    "reason": None,
    "progress": 1.0,
    "stage": None,
    "current": True,
    "aliases": ["stable"],
}
_LOADING: dict[str, Any] = {
    "version": None,
    "state": "loading",
    "reason": None,
    "progress": 0.3,
    "stage": "measuring layers",
    "current": False,
    "aliases": [],
}
_MODEL = {
    "name": "resnet50",
    "state": "ready",
    "reason": None,
    "versions": [_VERSION],
    "default": True,
    "version": "IMAGENET1K_V2",
    "digest": "11ad3fa62ce13a2f4dea8bd0a7d9f8a3e8a9fd7b0d7d1f2f5f6d0a3c5e6b7a89",
    "source": "torchvision",
    "architecture": "resnet50",
    "input": {"height": 224, "width": 224},
    "preprocessing": {
        "mode": "crop",
        "resize": 232,
        "interpolation": "bilinear",
        "decoding": "full",
        "scale": 0.00392156862745098,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
    "classes": 1000,
    "default_layer": "layer4",
    "methods": ["gradcam"],
    "refused_methods": {"legrad": "it needs a transformer: no attention among tokens is seen in this network"},
    "channels": 3,
    "order": "RGB",
    "prompts": None,
    "activation": "softmax",
    "multi_label": False,
    "heads": {},
    "default_head": None,
    "device": "cuda:0",
    "dtype": "float32",
    "precision": "float32",
    "precision_asked": "float32",
    "precision_reason": None,
    "precision_check": None,
    "folded": True,
    "folded_reason": None,
    "parts": 1,
    "parts_reason": "4 pictures take 8 ms together, which is quick enough.",
    "parameters": 25557032,
    "memory_bytes": 102544096,
    "warnings": [],
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
    "hidden": None,
    "scores": {**_CERTAINTY, "mass_inside": 0.74, "flip_stability": 0.93},
    "verification": {
        "drop": 7.1,
        "drop_probability": 0.41,
        "controls": {"median": 0.9, "max": 2.2, "count": 19},
        "p": 0.05,
        "verdict": "supported",
        "reason": None,
        "gates": {"class_differs": True, "random_head_differs": True, "missing": {}},
        "passes": 22,
        "text": "Supported: hiding what the map calls important lowers the logit of 'tabby' by 7.10, the same shape at "
        "each of 19 other places by 2.20 at most.",
    },
}


def _answer(*explanations: Any) -> dict[str, Any]:
    return {
        "id": EXAMPLE_REQUEST_ID,
        "model": {"name": "resnet50", "version": "IMAGENET1K_V2"},
        "results": [
            {
                "image": _IMAGE,
                "view": _VIEW,
                "predictions": [_PREDICTION],
                "scores": _CERTAINTY,
                "explanations": list(explanations),
                "error": None,
            }
        ],
        "timing": _TIMING,
        "cost": {"forward": 1.0, "pixels": 2_000_000, "bytes": 91_234},
        "precision": "float32",
    }


# A model whose next version is on its way.
_REPLACED = {
    **_MODEL,
    "versions": [_VERSION, _LOADING],
}
_ALIAS = {"alias": "stable", "model": "resnet50", "version": "IMAGENET1K_V2"}
# The body of PUT.
CONFIGURATION: Mapping[str, Any] = {
    "architecture": "resnet50",
    "weights": "birds.safetensors",
    "labels": "birds.txt",
    "layer": "layer4",
}

_EXPLAINED, _PREDICTED = _answer(_EXPLANATION), _answer()

# By name of the model that describes the body.
REQUESTS: Mapping[str, Any] = {
    "ExplainRequest": {
        "images": _IMAGES,
        "layer": ["layer4"],
        "target": ["predicted", "tiger cat"],
        "output": ["heatmap", "map", "regions", "scores"],
        "region": [230, 150, 381, 311],
        "verify": True,
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
    "models": {"default": "resnet50", "management": "off", "models": [_MODEL]},
    "model": _MODEL,
    "explain_version": _EXPLAINED,
    "predict_version": _PREDICTED,
    "unload_model": {**_MODEL, "state": "unloaded", "versions": [{**_VERSION, "state": "unloaded", "progress": 0.0}]},
    "aliases": {"aliases": [_ALIAS]},
    "put_alias": _ALIAS,
    "put_model": _REPLACED,
    "reload_model": _REPLACED,
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
                "placement": {"x": [1.2, 31.8], "y": [0.7, 32.1], "residual": 1.9, "by": "measured"},
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
                "placement": {"x": [112.0, 224.0], "y": [112.0, 224.0], "residual": None, "by": "stretch"},
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
}

# What operations that change models can meet, besides.
MANAGEMENT_ERRORS = (
    ErrorExample(
        "The body is no JSON object.",
        InvalidRequest("The body is no JSON object. Send the keys of a [[models]] table."),
    ),
    ErrorExample(
        "The key lacks the scope, models are not changed here, or a path or a source is not allowed.",
        PathNotAllowed(
            "'/etc/passwd' lies in none of the folders of the setting model_dirs. Put the file into such a folder and "
            "name it there; URLs are not read."
        ),
    ),
    ErrorExample("The body is longer than any configuration.", BodyTooLarge("A model's configuration is too long.")),
    ErrorExample(
        "The request did not arrive in time.",
        RequestTimeout("The head of the request took longer than 10 s. Send it faster."),
    ),
    ErrorExample(
        "Another version is being loaded, the model is the default one, or the name is taken.",
        ModelBusy(
            "A version of model 'birds' is being loaded. Wait until it is ready, which GET tells, or has failed."
        ),
    ),
    ErrorExample(
        "A key of the body is unknown or out of range; or, where one waited for it, the model cannot be loaded.",
        ModelLoadError(
            "There is no architecture 'resnet5'. Did you mean resnet50? The version before it goes on answering."
        ),
    ),
)
