"""What answers ``/predictions`` and ``/explanations``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from fastapi import Response
from pydantic_core import to_json

from service.errors import InvalidOption, RequestTooCostly
from service.http.answers import AT_ONCE_BYTES, JSON, LargeAnswer
from service.http.requests import unless_gone
from service.imaging.enlarge import enlarge, enlarged_shape
from service.protocols.torchserve.requests import read_request

if TYPE_CHECKING:
    from fastapi import Request

    from service.engine.answers import Answer, ClassScore, MapAnswer
    from service.engine.explainer import Explainer
    from service.engine.request import Request as Asked
    from service.vocabulary import Operation, Size

__all__ = ["answer"]

# As rows of numbers; more takes long to write and to read.
_MAX_CELLS = 2**18


async def answer(http: Request, op: Operation, model: str, version: str | None) -> Response:
    """Answer a request; :func:`read_request` and the engine say what may be wrong with it."""
    engine: Explainer = http.state.explainer
    engine.refuse_early(model, version)
    asked, size = await read_request(http, op, model, version)
    found = await unless_gone(http, engine.answer(asked))
    if op == "predict":
        return Response(to_json(_by_label(found.images[0].predictions)), media_type=JSON)
    explanation = _only(found)
    if (overlay := explanation.rendered.overlay) is not None:
        return Response(overlay.data, media_type=overlay.media_type)
    return await _rows(engine, found, asked, size)


def _by_label(predictions: tuple[ClassScore, ...]) -> dict[str, float]:
    """Return probabilities by label, the likeliest first; labels that several classes share have their index behind."""
    often = Counter(score.label for score in predictions)
    return {
        score.label if often[score.label] == 1 else f"{score.label} #{score.index}": score.probability
        for score in predictions
    }


def _only(answer: Answer) -> MapAnswer:
    """Return the map.

    Raises:
        InvalidOption: there are several.
    """
    explanations = answer.images[0].explanations
    if len(explanations) != 1:
        raise InvalidOption(
            f"{len(explanations)} maps are asked for, and the answer is one: ask for one layer, method and target."
        )
    return explanations[0]


async def _rows(engine: Explainer, answer: Answer, asked: Asked, size: Size) -> Response:
    """Answer with a list of rows, each a list of numbers."""
    image, found = answer.images[0], _only(answer)
    assert image.geometry is not None
    geometry, cells = image.geometry, (found.raw.shape[0], found.raw.shape[1])
    height, width = enlarged_shape(size, geometry, cells, asked.max_side)
    if height * width > _MAX_CELLS:
        raise RequestTooCostly(
            f"The map would have {height * width:,} numbers; {_MAX_CELLS:,} are sent as text. Lower 'max_side', or ask "
            "for a picture: Accept: image/png.",
            factor="max_side",
        )

    def write() -> bytes:
        rows: list[Any] = enlarge(found.raw, geometry, size, asked.max_side, found.placement).tolist()
        return to_json(rows)

    body = await engine.in_thread(write, 0, asked.client, asked.weight)
    if len(body) > AT_ONCE_BYTES:
        return LargeAnswer(engine, answer, iter([body]), asked)
    return Response(body, media_type=JSON)
