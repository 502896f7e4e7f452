"""The row of KServe V1 in the table of protocols: its routes; what answers them is imported behind the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from pydantic_core import to_json

from service.problems import detail_of
from service.protocols import WireProtocol, key_scope, operation_id

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.errors import ServiceError
    from service.vocabulary import Operation

__all__ = ["KSERVE_V1", "answer_instances"]

router = APIRouter(prefix="/v1", tags=["KServe V1"], generate_unique_id_function=operation_id)


@router.get("/models", response_model=None, summary="List the models (V1)")
async def v1_models(request: Request) -> Any:
    """The names of the models, the default one first."""
    engine: Explainer = request.state.explainer
    return {"models": [status.config.name for status in engine.models()]}


@router.get("/models/{model}", response_model=None, summary="Is a model ready? (V1)")
async def v1_model(model: str, request: Request) -> Any:
    """200 if it can answer, 503 while it is being loaded."""
    return _ready(request, model)


@router.get("/models/{model}/versions/{version}", response_model=None, summary="Is a version of a model ready? (V1)")
async def v1_version(model: str, version: str, request: Request) -> Any:
    """200 if it can answer, 503 while it is being loaded."""
    return _ready(request, model, version)


@router.post("/models/{model}:predict", summary="Classify instances (V1)")
@key_scope("infer")
async def v1_predict(model: str, request: Request) -> Response:
    """Classes of every instance, with no gradient work. An instance that fails has its own error among the others."""
    return await answer_instances(request, "predict", model)


@router.post("/models/{model}:explain", summary="Explain instances (V1, Vertex AI)")
@key_scope("infer")
async def v1_explain(model: str, request: Request) -> Response:
    """Explanations and classes of every instance, in one answer, in the shape of Vertex AI's attributions."""
    return await answer_instances(request, "explain", model)


@router.post("/models/{model}/versions/{version}:predict", summary="Classify instances with a version (V1)")
@key_scope("infer")
async def v1_predict_version(model: str, version: str, request: Request) -> Response:
    """As without a version."""
    return await answer_instances(request, "predict", model, version)


@router.post("/models/{model}/versions/{version}:explain", summary="Explain instances with a version (V1)")
@key_scope("infer")
async def v1_explain_version(model: str, version: str, request: Request) -> Response:
    """As without a version."""
    return await answer_instances(request, "explain", model, version)


def _ready(request: Request, model: str, version: str | None = None) -> dict[str, Any]:
    engine: Explainer = request.state.explainer
    engine.ready_info(model, version)
    return {"name": model, "ready": True}


async def answer_instances(request: Request, op: Operation, model: str, version: str | None = None) -> Response:
    """Answer a list of instances."""
    from service.protocols.kserve_v1.verbs import answer  # noqa: PLC0415  # adds nothing to the start

    return await answer(request, op, model, version)


_LISTED = {"unknown_model": "GET /v1/models lists them."}


def _error_body(error: ServiceError, _request_id: str) -> tuple[bytes, str]:
    """Word an error as V1's clients read it; they look into ``application/json`` alone."""
    return to_json({"error": detail_of(error, _LISTED)}), "application/json"


KSERVE_V1 = WireProtocol(
    name="kserve_v1",
    router=router,
    prefixes=("/v1",),
    error_body=_error_body,
    modules=("service.protocols.kserve_v1.verbs",),
    openapi="service.protocols.kserve_v1.openapi",
)
