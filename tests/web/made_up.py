"""A protocol that nobody speaks: all that one has to write, and the application knows nothing of it but its row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import fastapi

from service.engine.request import Request, Upload
from service.protocols import OpenApiPart, WireProtocol, key_scope

if TYPE_CHECKING:
    from service.errors import ServiceError

__all__ = ["MADE_UP"]

router = fastapi.APIRouter(prefix="/made-up", tags=["made up"])


@router.get("/hello")
async def hello(times: int = 1) -> str:
    return "hello" * times


@router.post("/look")
@key_scope("infer")
async def look(request: fastapi.Request) -> dict[str, str]:
    answer = await request.state.explainer.answer(Request([Upload(await request.body())], op="predict"))
    return {"saw": answer.images[0].predictions[0].label}


def oops(error: ServiceError, request_id: str) -> tuple[bytes, str]:
    return json.dumps({"oops": error.code, "id": request_id}).encode(), "application/oops+json"


MADE_UP = WireProtocol(
    name="made up",
    router=router,
    prefixes=("/made-up",),
    error_body=oops,
    open_paths=("/made-up/hello",),
    probes=("/made-up/hello",),
    openapi=OpenApiPart(description="Looks.", error_schema={"type": "object", "required": ["oops"]}),
)
