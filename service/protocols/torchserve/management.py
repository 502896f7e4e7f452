"""TorchServe's management API, as far as it can be read: what is served, by which workers, with how long a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import UnknownVersion

if TYPE_CHECKING:
    from fastapi import Request

    from service.engine.explainer import Explainer
    from service.engine.pool import WorkerStatus
    from service.engine.registry import ModelStatus
    from service.engine.versions import VersionStatus

__all__ = ["described", "listed"]

_STATES = {"ready": "READY", "loading": "LOADING", "waiting": "LOADING"}


def listed(engine: Explainer, limit: int, begin: int) -> dict[str, Any]:
    """List ``limit`` models, from the one numbered ``begin`` on, and how to ask for those after."""
    models = engine.models()
    page = [
        {"modelName": status.config.name, "modelUrl": status.config.architecture}
        for status in models[begin : begin + limit]
    ]
    more = {"nextPageToken": str(begin + limit)} if begin + limit < len(models) else {}
    return {**more, "models": page}


def described(request: Request, model: str, version: str | None) -> list[dict[str, Any]]:
    """Describe the version that a model's name points to, one of its versions, or (``all``) every one.

    Raises:
        UnknownModel, UnknownVersion: there is none.
    """
    engine: Explainer = request.state.explainer
    status = engine.model(model)
    versions = engine.versions(status.config.name)
    if version is None:
        chosen = [each for each in versions if each.current]
    else:
        chosen = [each for each in versions if version in {"all", each.version}]
    if not chosen:
        known = [each.version for each in versions if each.version]
        raise UnknownVersion.among(version or "", known, model=status.config.name)
    return [_entry(request, status, each) for each in chosen]


def _entry(request: Request, status: ModelStatus, version: VersionStatus) -> dict[str, Any]:
    engine: Explainer = request.state.explainer
    settings = request.state.settings
    inside, free = engine.queue()
    workers = [_worker(worker) for worker in engine.workers()] if "manage" in request.state.scopes else []
    return {
        "modelName": status.config.name,
        "modelVersion": version.version or "",
        "modelUrl": status.config.architecture,
        "engine": "Torch",
        "runtime": "python",
        "minWorkers": len(engine.workers()),
        "maxWorkers": len(engine.workers()),
        "batchSize": settings.max_batch_size,
        "maxBatchDelay": 0,
        "loadedAtStartup": True,
        "status": version.state,
        "workers": workers,
        "jobQueueStatus": {"remainingCapacity": free, "pendingRequests": inside},
    }


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    return {
        "id": str(worker.number),
        "status": _STATES.get(worker.state, "UNLOADING"),
        "gpu": worker.device.startswith("cuda"),
        "memoryUsage": sum(worker.device_bytes.values()),
        "pid": worker.pid or 0,
    }
