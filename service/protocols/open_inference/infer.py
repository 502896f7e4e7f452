"""What answers ``infer``."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from fastapi import Response

from service.http.answers import AT_ONCE_BYTES, JSON, LargeAnswer
from service.http.requests import unless_gone
from service.protocols.open_inference.answers import encoded
from service.protocols.open_inference.requests import read_request

if TYPE_CHECKING:
    from fastapi import Request

    from service.engine.explainer import Explainer

__all__ = ["answer"]


async def answer(http: Request, model: str, version: str | None) -> Response:
    """Answer a request; :func:`read_request`, :func:`encoded` and the engine say what may be wrong with it."""
    engine: Explainer = http.state.explainer
    engine.refuse_early(model, version)
    asked = await read_request(http, model, version)
    found = await unless_gone(http, engine.answer(asked.request))
    most = http.state.settings.max_request_cost.bytes
    client, weight = asked.request.client, asked.request.weight
    header, behind = await engine.in_thread(lambda: encoded(found, asked, most), 0, client, weight)
    headers = {"Inference-Header-Content-Length": str(len(header))} if behind else {}
    media_type = "application/octet-stream" if behind else JSON
    if len(header) + sum(map(len, behind)) > AT_ONCE_BYTES:
        return LargeAnswer(engine, found, chain([header], filter(None, behind)), asked.request, media_type, headers)
    return Response(b"".join([header, *behind]), headers=headers, media_type=media_type)
