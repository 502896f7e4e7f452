"""Answers that are written piece by piece, so that nobody waits long for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import Response, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from starlette.types import Receive, Scope, Send

    from service.engine.answers import Answer
    from service.engine.explainer import Explainer
    from service.engine.request import Request as Asked

__all__ = ["AT_ONCE_BYTES", "JSON", "LargeAnswer", "written"]

AT_ONCE_BYTES = 512 * 1024
"""An answer of fewer encoded bytes is written in one go, faster than threads change."""

JSON = "application/json"


class LargeAnswer(StreamingResponse):
    """An answer that is written piece by piece, in threads, and counts as work that is inside until it is sent.

    Args:
        engine: whose threads write it.
        answer: what is written.
        pieces: the bytes of the body; an empty piece ends it.
        asked: the request, for whose turn it is.
        media_type: of the body.
        headers: further ones.
    """

    def __init__(  # those of a response, and what it is made of
        self,
        engine: Explainer,
        answer: Answer,
        pieces: Iterator[bytes],
        asked: Asked,
        media_type: str = JSON,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(self._written(pieces), headers=headers, media_type=media_type)
        self._engine, self._answer, self._asked = engine, answer, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._engine.sending(self._answer):
            await super().__call__(scope, receive, send)

    async def _written(self, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
        client, weight = self._asked.client, self._asked.weight
        while piece := await self._engine.in_thread(lambda: next(pieces, b""), 0, client, weight):
            yield piece


def written(engine: Explainer, answer: Answer, pieces: Iterator[bytes], asked: Asked) -> Response:
    """Answer with JSON that comes in pieces: in one go where it is small."""
    if answer.cost.bytes > AT_ONCE_BYTES:
        return LargeAnswer(engine, answer, pieces, asked)
    return Response(b"".join(pieces), media_type=JSON)
