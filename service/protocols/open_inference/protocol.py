"""The row of the Open Inference Protocol: its routes; what answers them is imported behind the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from service import __version__
from service.problems import detail_of
from service.protocols import WireProtocol, key_scope, operation_id

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.errors import ServiceError

__all__ = ["OPEN_INFERENCE"]

router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"], generate_unique_id_function=operation_id)

_EXTENSIONS = ["binary_tensor_data", "model_repository", "statistics", "model_configuration"]


@router.get("", response_model=None, summary="Describe the server (V2)")
async def v2_server() -> Any:
    """Name, version, extensions."""
    return {"name": "camserve", "version": __version__, "extensions": _EXTENSIONS}


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", response_model=None, summary="Is the process alive? (V2)")
async def v2_live() -> Any:
    """200 as long as the process answers."""
    return {"live": True}


@router.head("/health/ready", include_in_schema=False)
@router.get("/health/ready", summary="Can requests be answered? (V2)")
async def v2_ready(request: Request) -> Response:
    """200 if some model can answer and the service is not draining, else 503."""
    engine: Explainer = request.state.explainer
    ready = engine.ready
    status, headers = (200, {}) if ready else (503, {"Retry-After": "2"})
    return Response(to_json({"ready": ready}), status, headers, "application/json")


@router.get("/models", response_model=None, summary="List the models (V2)")
async def v2_models(request: Request) -> Any:
    """The names of the models, the default one first."""
    engine: Explainer = request.state.explainer
    return {"models": [status.config.name for status in engine.models()]}


@router.get("/models/stats", response_model=None, summary="Count what all models did (Triton)")
async def v2_all_statistics(request: Request) -> Any:
    """Images, batches and the time that they took, by model and version, since the start."""
    from service.protocols.open_inference.statistics import statistics  # noqa: PLC0415

    return statistics(request.state.explainer)


@router.get("/models/{model}", response_model=None, summary="Describe a model (V2)")
async def v2_model(model: str, request: Request) -> Any:
    """Its inputs and outputs, and its versions."""
    return _metadata(request, model)


@router.get("/models/{model}/versions/{version}", response_model=None, summary="Describe a version of a model (V2)")
async def v2_version(model: str, version: str, request: Request) -> Any:
    """Its inputs and outputs."""
    return _metadata(request, model, version)


@router.get("/models/{model}/ready", response_model=None, summary="Is a model ready? (V2)")
async def v2_model_ready(model: str, request: Request) -> Any:
    """200 if it can answer, 503 while it is being loaded."""
    return _ready(request, model)


@router.get(
    "/models/{model}/versions/{version}/ready", response_model=None, summary="Is a version of a model ready? (V2)"
)
async def v2_version_ready(model: str, version: str, request: Request) -> Any:
    """200 if it can answer, 503 while it is being loaded."""
    return _ready(request, model, version)


@router.post("/models/{model}/infer", summary="Classify and explain pictures (V2)")
@key_scope("infer")
async def v2_infer(model: str, request: Request) -> Response:
    """What `outputs` names, as tensors: without `heatmap` and `overlay` there is no gradient work."""
    return await _answer(request, model)


@router.post("/models/{model}/versions/{version}/infer", summary="Ask a version of a model (V2)")
@key_scope("infer")
async def v2_infer_version(model: str, version: str, request: Request) -> Response:
    """As without a version."""
    return await _answer(request, model, version)


@router.get("/models/{model}/config", response_model=None, summary="Show a model's configuration (Triton)")
async def v2_config(model: str, request: Request) -> Any:
    """As Triton's clients read it."""
    return _config(request, model)


@router.get(
    "/models/{model}/versions/{version}/config", response_model=None, summary="Show a version's configuration (Triton)"
)
async def v2_version_config(model: str, version: str, request: Request) -> Any:
    """As Triton's clients read it."""
    return _config(request, model, version)


@router.get("/models/{model}/stats", response_model=None, summary="Count what a model did (Triton)")
async def v2_statistics(model: str, request: Request) -> Any:
    """Images, batches and the time that they took, since the start."""
    return _statistics(request, model)


@router.get(
    "/models/{model}/versions/{version}/stats",
    response_model=None,
    summary="Count what a version of a model did (Triton)",
)
async def v2_version_statistics(model: str, version: str, request: Request) -> Any:
    """Images, batches and the time that they took, since the start."""
    return _statistics(request, model, version)


@router.post("/repository/index", response_model=None, summary="List the models and their states (Triton)")
@key_scope("infer")
async def v2_index(request: Request) -> Any:
    """Every version of every model; with `{"ready": true}`, those that can answer."""
    from service.protocols.open_inference.metadata import index  # noqa: PLC0415

    return await index(request)


@router.post("/repository/models/{model}/load", response_model=None, summary="Load a model again (Triton)")
@key_scope("manage")
async def v2_load(model: str, request: Request) -> Any:
    """From its configuration, where models may be changed; answers when it is ready."""
    from service.protocols.open_inference.repository import load  # noqa: PLC0415  # adds nothing to the start

    await load(request, model)
    return {}


@router.post("/repository/models/{model}/unload", response_model=None, summary="Put a model out of memory (Triton)")
@key_scope("manage")
async def v2_unload(model: str, request: Request) -> Any:
    """Where models may be changed. It is loaded again when somebody asks for it."""
    from service.protocols.open_inference.repository import unload  # noqa: PLC0415  # adds nothing to the start

    await unload(request, model)
    return {}


def _ready(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    engine: Explainer = request.state.explainer
    engine.ready_info(model, version)
    return {"name": model, "ready": True}


def _metadata(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    from service.protocols.open_inference.metadata import metadata  # noqa: PLC0415  # adds nothing to the start

    return metadata(request.state.explainer, model, version)


def _config(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    from service.protocols.open_inference.metadata import configuration  # noqa: PLC0415  # adds nothing to the start

    return configuration(request.state.explainer, model, version)


def _statistics(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    from service.protocols.open_inference.statistics import statistics  # noqa: PLC0415  # adds nothing to the start

    return statistics(request.state.explainer, model, version)


async def _answer(request: Request, model: str, version: str | None = None) -> Response:
    from service.protocols.open_inference.infer import answer  # noqa: PLC0415  # adds nothing to the start

    return await answer(request, model, version)


_LISTED = dict.fromkeys(("unknown_model", "unknown_version"), "POST /v2/repository/index lists them.")


def _error_body(error: ServiceError, _request_id: str) -> tuple[bytes, str]:
    """Word an error as the protocol's clients read it: tritonclient asks for ``error`` whatever the type."""
    return to_json({"error": detail_of(error, _LISTED)}), "application/json"


OPEN_INFERENCE = WireProtocol(
    name="open_inference",
    router=router,
    prefixes=("/v2",),
    error_body=_error_body,
    open_paths=("/v2/health/live", "/v2/health/ready"),
    probes=("/v2/health/live", "/v2/health/ready"),
    modules=(
        "service.protocols.open_inference.infer",
        "service.protocols.open_inference.metadata",
        "service.protocols.open_inference.repository",
        "service.protocols.open_inference.statistics",
    ),
    openapi="service.protocols.open_inference.openapi",
)
