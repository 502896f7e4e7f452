"""Operations: alive, ready, metrics, version."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from service import __version__, wire
from service.protocols import OpenApiPart, WireProtocol, key_scope, operation_id
from service.web.examples import ANSWERS

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.engine.lifecycle import Lifecycle
    from service.engine.pool import WorkerStatus
    from service.metrics import Metrics
    from service.protocols import Operation

__all__ = ["OPERATIONS"]

router = APIRouter(tags=["operations"], generate_unique_id_function=operation_id)


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process alive?")
async def livez() -> wire.Status:
    """True as long as this process answers, whatever the workers do."""
    return wire.Status(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Can requests be answered?",
    responses={200: {"model": wire.Readiness}, 503: {"model": wire.Readiness}},
)
async def readyz(request: Request) -> Response:
    """200 with at least one usable model and worker, and not draining; otherwise 503.

    Where there are API keys, `models` and `workers` are empty but for a key with the scope `manage`.
    """
    explainer: Explainer = request.state.explainer
    readiness = _readiness(explainer, request.state.lifecycle)
    if "manage" not in request.state.scopes:
        readiness = wire.Readiness(status=readiness.status, models={}, workers=[])
    status, headers = (200, {}) if readiness.status == "ready" else (503, {"Retry-After": "2"})
    return Response(readiness.model_dump_json(), status, headers, "application/json")


def _readiness(explainer: Explainer, lifecycle: Lifecycle) -> wire.Readiness:
    states = {status.config.name: status.state for status in explainer.models()}
    if lifecycle.draining:
        status = "draining"
    elif {"ready", "unloaded"} & set(states.values()):  # what is unloaded is loaded when somebody asks for it
        status = "ready"
    else:
        status = "loading" if "loading" in states.values() else "unavailable"
    workers = [_worker_entry(worker) for worker in explainer.workers()]
    return wire.Readiness.model_validate({"status": status, "models": states, "workers": workers})


def _worker_entry(worker: WorkerStatus) -> dict[str, Any]:
    entry = asdict(worker)
    for gauge in ("number", "device_bytes"):  # `/metrics` has these
        del entry[gauge]
    return entry


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
@key_scope("metrics")
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms, as Prometheus text or, where ``Accept`` asks for it, as OpenMetrics."""
    found: Metrics = request.state.metrics
    explainer: Explainer = request.state.explainer
    explainer.refresh_gauges()
    request.state.evaluations.refresh_gauges()
    found.ready.set(_readiness(explainer, request.state.lifecycle).status == "ready")
    body, media_type = found.expose(request.headers.get("accept", ""))
    return Response(body, media_type=media_type)


@router.get("/version", summary="What is running")
async def version() -> wire.Version:
    """Name and version of the service."""
    return wire.Version(name="camserve", version=__version__, api="v1")


def _complete(operation: Operation) -> None:
    name = operation.fields["operationId"]
    content = operation.fields["responses"]["200"].setdefault("content", {})
    if name in ANSWERS:
        content["application/json"]["example"] = ANSWERS[name]
    else:
        content["text/plain"] = {"schema": {"type": "string"}}


OPERATIONS = WireProtocol(
    name="operations",
    router=router,
    prefixes=("/livez", "/readyz", "/metrics", "/version"),
    open_paths=("/livez", "/readyz", "/version"),
    probes=("/livez", "/readyz", "/metrics"),
    openapi=OpenApiPart(complete=_complete),
)
