"""The OpenAPI part of Vertex AI's paths: KServe V1's bodies and answers, Google's errors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from service.protocols.kserve_v1 import openapi as v1

if TYPE_CHECKING:
    from service.protocols import Operation

__all__ = ["OPENAPI"]

_DESCRIPTION = """\
Vertex AI's paths (`/v1/projects/{project}/locations/{location}/endpoints/{endpoint}:predict` and `:explain`) take and
give the same as KServe V1's; errors are Google's, `{"error": {"code", "message", "status", "details"}}`."""

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "status", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "message": {"type": "string"},
                "status": {"type": "string", "description": "Of google.rpc.Code."},
                "details": {"type": "array", "items": {"type": "object"}},
            },
        }
    },
}


def _complete(operation: Operation) -> None:
    v1.complete(operation, operation.fields["operationId"].replace("vertex_ai_", "v1_"))


OPENAPI = replace(v1.OPENAPI, description=_DESCRIPTION, error_schema=_ERROR, complete=_complete)
