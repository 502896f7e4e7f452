"""What the protocol and Triton's extensions tell of models: metadata, configuration, the repository's index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from service.errors import InvalidRequest
from service.http.requests import body_of

if TYPE_CHECKING:
    from fastapi import Request

    from service.engine.explainer import Explainer
    from service.engine.versions import VersionStatus

__all__ = ["configuration", "index", "metadata"]

# (name, datatype, dimensions); -1 is any number.
_OUTPUTS: tuple[tuple[str, str, list[int]], ...] = (
    ("heatmap", "FP32", [-1, -1, -1]),
    ("overlay", "BYTES", [-1]),
    ("class_id", "INT64", [-1, -1]),
    ("score", "FP32", [-1, -1]),
    ("label", "BYTES", [-1, -1]),
    ("entropy", "FP32", [-1]),
    ("margin", "FP32", [-1]),
    ("mass_inside", "FP32", [-1]),
    ("flip_stability", "FP32", [-1]),
    ("layer_agreement", "FP32", [-1]),
    ("error", "BYTES", [-1]),
)
_TRITON_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
_MAX_INDEX_BYTES = 1024


def metadata(engine: Explainer, model: str, version: str | None) -> dict[str, Any]:
    """Describe a model.

    Raises:
        UnknownModel, UnknownVersion, NotReady: as :meth:`Explainer.ready_info`.
    """
    info = engine.ready_info(model, version)
    versions = [status.version for status in engine.versions(info.name) if status.version and status.state == "ready"]
    return {
        "name": model,
        "versions": [info.version] if version else versions or [info.version],
        "platform": f"camserve_{info.source or 'model'}",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
        "outputs": [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in _OUTPUTS],
    }


def configuration(engine: Explainer, model: str, version: str | None) -> dict[str, Any]:
    """Return a model's configuration as Triton's clients read it; the first dimension of every tensor is pictures.

    Raises:
        UnknownModel, UnknownVersion, NotReady: as :meth:`Explainer.ready_info`.
    """
    info = engine.ready_info(model, version)
    return {
        "name": model,
        "platform": f"camserve_{info.source or 'model'}",
        "backend": "camserve",
        "max_batch_size": 0,
        "input": [
            {"name": "image", "data_type": "TYPE_STRING", "dims": [-1]},
            {"name": "target", "data_type": "TYPE_STRING", "dims": [-1], "optional": True},
        ],
        "output": [
            {"name": name, "data_type": _TRITON_TYPES[datatype], "dims": shape} for name, datatype, shape in _OUTPUTS
        ],
        "parameters": {
            "classes": {"string_value": str(len(info.labels))},
            "default_layer": {"string_value": info.default_layer},
            "digest": {"string_value": info.digest},
        },
    }


async def index(request: Request) -> list[dict[str, str]]:
    """List every version of every model.

    Raises:
        InvalidRequest: the body is not empty, and no JSON object with ``ready``.
    """
    engine: Explainer = request.state.explainer
    only_ready = _only_ready(await body_of(request))
    entries = [
        _entry(status.config.name, version)
        for status in engine.models()
        for version in engine.versions(status.config.name)
    ]
    return [entry for entry in entries if not only_ready or entry["state"] == "READY"]


def _only_ready(body: bytes) -> bool:
    if not body.strip():
        return False
    try:
        fields = from_json(body) if len(body) <= _MAX_INDEX_BYTES else None
    except ValueError:
        fields = None
    ready = fields.get("ready", False) if isinstance(fields, dict) else None
    if not isinstance(ready, bool):
        raise InvalidRequest('The body is not a JSON object such as {"ready": true}. It may be empty.')
    return ready


def _entry(name: str, version: VersionStatus) -> dict[str, str]:
    ready = version.state in {"ready", "unloaded"}  # what is unloaded is loaded when somebody asks for it
    reason = "" if ready else version.reason or version.state
    return {
        "name": name,
        "version": version.version or "",
        "state": "READY" if ready else "UNAVAILABLE",
        "reason": reason,
    }
