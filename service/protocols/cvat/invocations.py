"""A call of a function: what CVAT sends, and the answer that is made of the engine's."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from service.areas import Clicks
from service.engine.request import Request, Upload
from service.errors import BodyTooLarge, InvalidOption, InvalidRequest, shorten
from service.http.base64 import picture_of
from service.http.options import lower_first
from service.http.requests import client_of
from service.options import Options
from service.protocols.cvat.shapes import levels, mask_answer, shapes, tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request as HttpRequest

    from service.engine.answers import Answer, ClassScore, ImageAnswer
    from service.engine.explainer import Explainer
    from service.models.info import ModelInfo
    from service.protocols.cvat.functions import Function, Kind

__all__ = ["Invocation", "read_invocation", "run"]

# Points in a call, at most; each has three signs of JSON, and there are two lists of them.
_MAX_POINTS = 100
_MAX_SIGNS = 1000
# Of how many classes a click may find an area.
_CLASSES_UNDER_A_CLICK = 3
_MULTI_LABEL_THRESHOLD = 0.5
_AREA_THRESHOLD = Options.threshold
_SECONDS = re.compile(r"(\d{1,6})s")
# As large as masks are drawn; larger pictures have theirs enlarged.
_MAX_SIDE = 8192

Point = tuple[float, float]
_Points = Annotated[list[Point], BeforeValidator(lambda value: [] if value is None else value)]


class Invocation(BaseModel):
    """The body of a call. What else CVAT, or a function of Nuclio's, may send is ignored."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    image: str = Field(description="The picture's file, in base64.", examples=["/9j/4AAQSkZJRgABAQ…"])
    threshold: float | None = Field(
        None, ge=0, le=1, description="Least probability of a class that a detector names. Without it, the best class."
    )
    pos_points: _Points = Field([], max_length=_MAX_POINTS, description="Clicks on what should be masked.")
    neg_points: _Points = Field([], max_length=_MAX_POINTS, description="Clicks on what should not.")
    obj_bbox: list[Point] | None = Field(None, max_length=2, description="Two corners of a box that the mask stays in.")


def read_invocation(body: bytes) -> tuple[Invocation, bytes]:
    """Read a call, and the file of its picture.

    Raises:
        InvalidRequest, InvalidOption, BodyTooLarge: it cannot be used.
        InvalidImage: the picture is not in base64.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > _MAX_SIGNS:
        raise BodyTooLarge(f"The JSON has more than {_MAX_SIGNS} values. Send fewer points, {_MAX_POINTS} at most.")
    try:
        invocation = Invocation.model_validate_json(body)
    except ValidationError as error:
        raise _worded(error) from error
    return invocation, picture_of(invocation.image, "image")


def _worded(error: ValidationError) -> InvalidRequest | InvalidOption:
    detail = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = shorten(".".join(str(part) for part in detail["loc"]))
    if where in {"", "image"}:
        return InvalidRequest('The body is no JSON object such as {"image": "<base64 of the file>"}.')
    return InvalidOption(f"{where!r}: {lower_first(detail['msg'])}.")


@dataclass(frozen=True)
class _Call:
    """What is asked for a call, again and again where one answer decides what is asked next."""

    engine: Explainer
    request: Request

    async def predict(self) -> tuple[ImageAnswer, Answer]:
        return await self._answered(replace(self.request, op="predict"))

    async def explain(self, targets: Sequence[int | str], outputs: tuple[Any, ...]) -> tuple[ImageAnswer, Answer]:
        asked = replace(self.request, targets=tuple(targets), outputs=outputs, max_side=_MAX_SIDE)
        return await self._answered(asked)

    async def in_thread(self, work: Any, image: ImageAnswer) -> Any:
        return await self.engine.in_thread(work, image.width * image.height, self.request.client, self.request.weight)

    async def _answered(self, request: Request) -> tuple[ImageAnswer, Answer]:
        answer = await self.engine.answer(request)
        return answer.images[0], answer


async def run(
    http: HttpRequest, function: Function, classes: int, invocation: Invocation, picture: bytes
) -> tuple[bytes, Answer]:
    """Carry out a call; return the JSON to send, and the engine's answer that it is made of.

    Args:
        http: the call as it came.
        function: which was called.
        classes: how many its model has.
        invocation: the call's body.
        picture: the file in it.

    Raises:
        ServiceError: whatever the engine raises; InvalidOption where an interactor has no click.
    """
    timeout_s, client = _allowed_s(http), client_of(http)
    asked = Request([Upload(picture)], model=function.model, timeout_s=timeout_s, image_format="png", **client)
    call = _Call(http.state.explainer, asked)
    if function.kind == "click":
        return await _clicked(call, min(_CLASSES_UNDER_A_CLICK, classes), _clicks(invocation))
    return await _detected(call, function.kind, invocation.threshold)


def _allowed_s(http: HttpRequest) -> float | None:
    """Return the seconds that CVAT waits, as ``X-Nuclio-Invoke-Timeout`` says; None where it says none."""
    found = _SECONDS.fullmatch(http.headers.get("x-nuclio-invoke-timeout", ""))
    return float(found[1]) or None if found else None


# -- detectors --------------------------------------------------------------------------------------------------------


async def _detected(call: _Call, kind: Kind, threshold: float | None) -> tuple[bytes, Answer]:
    image, answer = await call.predict()
    found = _named(image.predictions, answer.model, threshold)
    if kind == "tag" or not found:
        return tags([(score.label, score.probability) for score in found]), answer
    outputs = ("regions", "mask") if kind == "mask" else ("regions",)
    image, answer = await call.explain([score.index for score in found], outputs)
    return await call.in_thread(partial(shapes, image, kind, _AREA_THRESHOLD), image), answer


def _named(scores: Sequence[ClassScore], model: ModelInfo, threshold: float | None) -> list[ClassScore]:
    """Choose the classes to show: the best, or all those above the threshold that was given, best first."""
    if threshold is None:
        if not model.multi_label:
            return list(scores[:1])
        threshold = _MULTI_LABEL_THRESHOLD
    return [score for score in scores if score.probability >= threshold]


# -- the interactor ---------------------------------------------------------------------------------------------------


async def _clicked(call: _Call, classes: int, clicks: Clicks) -> tuple[bytes, Answer]:
    image, answer = await call.explain([f"top-{classes}"], ("mask",))
    return await call.in_thread(partial(_selected, image, clicks), image), answer


def _selected(image: ImageAnswer, clicks: Clicks) -> bytes:
    """Write the mask under the clicks, of the best class that has one there; it may be empty."""
    maps = [levels(image, each) for each in image.explanations if each.summary.reason is None]
    if not maps:
        return mask_answer(np.zeros((image.height, image.width), np.bool_))
    return mask_answer(clicks.best_part(maps, _AREA_THRESHOLD))


def _clicks(invocation: Invocation) -> Clicks:
    """Read the clicks.

    Raises:
        InvalidOption: there is none on what should be masked.
    """
    corners = invocation.obj_bbox or []
    if not invocation.pos_points and len(corners) != 2:
        raise InvalidOption("'pos_points' is empty. Click at least once on what should be masked.")
    box = None
    if len(corners) == 2:
        (x0, y0), (x1, y1) = corners
        box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
    wanted = invocation.pos_points or [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)] if box else invocation.pos_points
    return Clicks([_bounded(each) for each in wanted], [_bounded(each) for each in invocation.neg_points], box)


def _bounded(point: Point) -> Point:
    """Keep a coordinate within what a picture may have, so that its square is a number."""
    x, y = (math.copysign(min(abs(value), 1e6), value) for value in point)
    return x, y
