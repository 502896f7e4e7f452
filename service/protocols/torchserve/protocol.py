"""The row of TorchServe in the table of protocols: its routes; what answers them is imported behind the start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from service.problems import detail_of, status_of
from service.protocols import WireProtocol, key_scope, operation_id

if TYPE_CHECKING:
    from service.engine.explainer import Explainer
    from service.errors import ServiceError
    from service.vocabulary import Operation

__all__ = ["TORCHSERVE"]

router = APIRouter(tags=["TorchServe"], generate_unique_id_function=operation_id)


@router.head("/ping", include_in_schema=False)
@router.get("/ping", summary="Is the service healthy? (TorchServe)")
async def torchserve_ping(request: Request) -> Response:
    """200 and Healthy if some model can answer and the service is not draining, else 500 as TorchServe has it."""
    engine: Explainer = request.state.explainer
    healthy = engine.ready
    return Response(
        to_json({"status": "Healthy" if healthy else "Unhealthy"}), 200 if healthy else 500, None, "application/json"
    )


# ``curl -T FILE`` sends PUT.
@router.put("/predictions/{model}", include_in_schema=False)
@router.post("/predictions/{model}", summary="Classify a picture (TorchServe)")
@key_scope("infer")
async def torchserve_predict(model: str, request: Request) -> Response:
    """The likeliest classes with their probabilities, with no gradient work."""
    return await _answer(request, "predict", model)


@router.put("/predictions/{model}/{version}", include_in_schema=False)
@router.post("/predictions/{model}/{version}", summary="Classify a picture with a version (TorchServe)")
@key_scope("infer")
async def torchserve_predict_version(model: str, version: str, request: Request) -> Response:
    """As without a version."""
    return await _answer(request, "predict", model, version)


@router.put("/explanations/{model}", include_in_schema=False)
@router.post("/explanations/{model}", summary="Explain a picture (TorchServe)")
@key_scope("infer")
async def torchserve_explain(model: str, request: Request) -> Response:
    """The map as rows of numbers; or a picture, where `Accept` or `format` asks for one."""
    return await _answer(request, "explain", model)


@router.put("/explanations/{model}/{version}", include_in_schema=False)
@router.post("/explanations/{model}/{version}", summary="Explain a picture with a version (TorchServe)")
@key_scope("infer")
async def torchserve_explain_version(model: str, version: str, request: Request) -> Response:
    """As without a version."""
    return await _answer(request, "explain", model, version)


@router.get("/models", response_model=None, summary="List the models (TorchServe)")
async def torchserve_models(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000, description="Models in one answer.")] = 100,
    next_page_token: Annotated[int, Query(ge=0, le=10**9, description="Of the answer before.")] = 0,
) -> Any:
    """Names of the models, and what they are loaded from."""
    from service.protocols.torchserve.management import listed  # noqa: PLC0415  # adds nothing to the start

    return listed(request.state.explainer, limit, next_page_token)


@router.get("/models/{model}", response_model=None, summary="Describe a model (TorchServe)")
async def torchserve_model(model: str, request: Request) -> Any:
    """Its versions, workers and queue."""
    return _described(request, model)


@router.get("/models/{model}/{version}", response_model=None, summary="Describe a version of a model (TorchServe)")
async def torchserve_version(model: str, version: str, request: Request) -> Any:
    """Its workers and queue; with the version `all`, every version."""
    return _described(request, model, version)


def _described(request: Request, model: str, version: str | None = None) -> list[dict[str, Any]]:
    from service.protocols.torchserve.management import described  # noqa: PLC0415  # adds nothing to the start

    return described(request, model, version)


async def _answer(request: Request, op: Operation, model: str, version: str | None = None) -> Response:
    from service.protocols.torchserve.inference import answer  # noqa: PLC0415  # adds nothing to the start

    return await answer(request, op, model, version)


# TorchServe's names of errors: by code, else by status.
_TYPES: dict[str | int, str] = {
    "unknown_model": "ModelNotFoundException",
    "unknown_version": "ModelVersionNotFoundException",
    "not_found": "ResourceNotFoundException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictStatusException",
    413: "RequestEntityTooLargeException",
    429: "ServiceUnavailableException",
    500: "InternalServerException",
    503: "ServiceUnavailableException",
    504: "InternalServerException",
}
_LISTED = {"unknown_model": "GET /models lists them.", "unknown_version": "GET /models/{model}/all lists them."}


def _error_body(error: ServiceError, _request_id: str) -> tuple[bytes, str]:
    """Word an error as TorchServe does."""
    status = status_of(error)
    kind = _TYPES.get(error.code) or _TYPES.get(status, "BadRequestException")
    return to_json({"code": status, "type": kind, "message": detail_of(error, _LISTED)}), "application/json"


TORCHSERVE = WireProtocol(
    name="torchserve",
    router=router,
    prefixes=("/ping", "/predictions", "/explanations", "/models"),
    error_body=_error_body,
    open_paths=("/ping",),
    probes=("/ping",),
    modules=("service.protocols.torchserve.inference", "service.protocols.torchserve.management"),
    openapi="service.protocols.torchserve.openapi",
)
