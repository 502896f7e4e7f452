"""Errors as the native API words them: RFC 9457 problem details. The one table from error code to HTTP status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import LayerNotExplainable, RequestTimeout, ServiceError, Unauthorized, Unavailable, UnknownName
from service.wire import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MEDIA_TYPE", "STATUS", "headers_for", "problem_body", "problem_for", "status_of"]

MEDIA_TYPE = "application/problem+json"

STATUS: Mapping[str, int] = {
    "bad_input": 400,
    "invalid_image": 400,
    "no_image": 400,
    "invalid_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "host_not_allowed": 403,
    "origin_not_allowed": 403,
    "address_not_allowed": 403,
    "management_off": 403,
    "path_not_allowed": 403,
    "source_not_allowed": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_version": 404,
    "unknown_alias": 404,
    "unknown_function": 404,
    "unknown_evaluation": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "model_busy": 409,
    "model_superseded": 409,
    "default_model": 409,
    "name_taken": 409,
    "evaluation_not_done": 409,
    "body_too_large": 413,
    "image_too_large": 413,
    "too_many_images": 413,
    "request_too_costly": 413,
    "unsupported_media_type": 415,
    "invalid_option": 422,
    "unknown_layer": 422,
    "unknown_label": 422,
    "unknown_method": 422,
    "unknown_colormap": 422,
    "unknown_head": 422,
    "layer_not_explainable": 422,
    "method_not_applicable": 422,
    "model_load_failed": 422,
    "picture_not_fetched": 424,
    "overloaded": 429,
    "rate_limited": 429,
    "too_many_evaluations": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "model_output": 500,
    "unavailable": 503,
    "not_ready": 503,
    "deadline_exceeded": 504,
}


# Where the native API lists what could have been asked for, by code.
_LISTED: Mapping[str, str] = {
    "unknown_model": "GET /api/v1/models lists them.",
    "unknown_version": "GET /api/v1/models/{model} lists them.",
    "unknown_alias": "GET /api/v1/aliases lists them.",
    "unknown_layer": "GET /api/v1/models/{model}/layers lists them.",
    "unknown_label": "GET /api/v1/models/{model}/classes?q=… searches the labels.",
    "unknown_method": "GET /api/v1/methods lists them.",
}


def status_of(error: ServiceError) -> int:
    """Return the HTTP status of an error."""
    return STATUS.get(error.code, 500)


def problem_for(error: ServiceError, request_id: str) -> Problem:
    """Put an error into words; its details become members of their own."""
    members = {
        "type": f"/errors#{error.code.replace('_', '-')}",
        "title": error.title,
        "status": status_of(error),
        "code": error.code,
        "detail": detail_of(error),
        "request_id": request_id,
    }
    return Problem.model_validate({**error.details, **members})


def detail_of(error: ServiceError, listed: Mapping[str, str] | None = None) -> str:
    """Return the message, followed by where one finds what could have been asked for.

    Args:
        error: what is worded.
        listed: by code, where another protocol than the native one lists such names; ``{model}`` is the model's.
    """
    where = {**_LISTED, **(listed or {})}
    if isinstance(error, UnknownName) and error.name is not None and error.code in where:
        return f"{error.message} {where[error.code].format(model=error.model)}"
    if isinstance(error, LayerNotExplainable) and error.model is not None:
        return f"{error.message.removesuffix('.')}, or GET /api/v1/models/{error.model}/layers?explainable=true."
    return error.message


def problem_body(error: ServiceError, request_id: str) -> tuple[bytes, str]:
    """Return an error as problem+json, and the media type of that."""
    return problem_for(error, request_id).model_dump_json(exclude_none=True).encode(), MEDIA_TYPE


def headers_for(error: ServiceError) -> dict[str, str]:
    """Return the headers that go with an error."""
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, RequestTimeout):
        return {"Connection": "close"}  # whatever comes of the request now is not to be taken for another
    return {"Retry-After": str(error.retry_after_s)} if isinstance(error, Unavailable) else {}
