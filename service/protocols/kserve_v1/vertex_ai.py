"""The row of Vertex AI's own paths, on where V1 is: the same bodies, and errors as Google's clients read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request, Response
from pydantic_core import to_json

from service.problems import detail_of, status_of
from service.protocols import WireProtocol, key_scope, operation_id
from service.protocols.kserve_v1.protocol import answer_instances

if TYPE_CHECKING:
    from service.errors import ServiceError

__all__ = ["VERTEX_AI"]


async def _unread(project: str, location: str) -> None:
    """Declare what of a path nothing depends on."""


router = APIRouter(
    prefix="/v1/projects/{project}/locations/{location}/endpoints",
    tags=["Vertex AI"],
    dependencies=[Depends(_unread)],
    generate_unique_id_function=operation_id,
)


@router.post("/{endpoint}:predict", summary="Classify instances (Vertex AI)")
@key_scope("infer")
async def vertex_ai_predict(endpoint: str, request: Request) -> Response:
    """As KServe V1's, with the model that the endpoint is called after."""
    return await answer_instances(request, "predict", endpoint)


@router.post("/{endpoint}:explain", summary="Explain instances (Vertex AI)")
@key_scope("infer")
async def vertex_ai_explain(endpoint: str, request: Request) -> Response:
    """As KServe V1's, with the model that the endpoint is called after."""
    return await answer_instances(request, "explain", endpoint)


_LISTED = {
    "unknown_model": "The endpoint's id is the name of a model, or an alias; GET /api/v1/models and "
    "/api/v1/aliases list them."
}
# Google's words for what HTTP's statuses say (google.rpc.Code); for others it is the request that is wrong.
_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    408: "DEADLINE_EXCEEDED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _error_body(error: ServiceError, _request_id: str) -> tuple[bytes, str]:
    """Word an error as Google's clients do: they look for a ``message`` in ``error``, and fail over a text."""
    status = status_of(error)
    reason = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": error.code.upper(),
        "domain": "camserve",
    }
    worded = {
        "code": status,
        "message": detail_of(error, _LISTED),
        "status": _CODES.get(status, "INVALID_ARGUMENT"),
        "details": [reason],
    }
    return to_json({"error": worded}), "application/json"


VERTEX_AI = WireProtocol(
    name="kserve_v1",
    router=router,
    prefixes=("/v1/projects",),
    error_body=_error_body,
    modules=("service.protocols.kserve_v1.verbs",),
    openapi="service.protocols.kserve_v1.vertex_openapi",
)
