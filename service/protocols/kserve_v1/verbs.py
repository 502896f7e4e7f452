"""What answers ``:predict`` and ``:explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.http.answers import written
from service.http.requests import unless_gone
from service.protocols.kserve_v1.answers import pieces
from service.protocols.kserve_v1.requests import read_request

if TYPE_CHECKING:
    from fastapi import Request, Response

    from service.engine.explainer import Explainer
    from service.vocabulary import Operation

__all__ = ["answer"]


async def answer(http: Request, op: Operation, model: str, version: str | None) -> Response:
    """Answer a request; see :func:`read_request` and :meth:`Explainer.answer` for what may be wrong with it."""
    engine: Explainer = http.state.explainer
    engine.refuse_early(model, version)
    asked, echoes = await read_request(http, op, model, version)
    found = await unless_gone(http, engine.answer(asked))
    return written(engine, found, pieces(found, asked, echoes, http.state.request_id), asked)
