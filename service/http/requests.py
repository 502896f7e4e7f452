"""A request's body, deadline and client; and work that is given up when the client goes away."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.errors import BodyTooLarge, InvalidOption, InvalidRequest, UnsupportedMediaType, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.requests import Request

    from service.engine.explainer import Explainer
    from service.vocabulary import ImageFormat

    T = TypeVar("T")

__all__ = [
    "accepted_format",
    "body_of",
    "client_of",
    "json_object",
    "read_in_thread",
    "refuse_encoded",
    "timeout_of",
    "unless_gone",
    "wants_json",
]

# What is larger is read in a thread.
_SMALL_BYTES = 64 * 1024
_FORMATS: Mapping[str, ImageFormat] = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
}
_QUALITY = re.compile(r"q\s*=\s*(0(?:\.\d*)?|1(?:\.0*)?)")


async def body_of(request: Request) -> bytes:
    """Read the body. ``request.body()`` would hold on to it until the answer is sent, beside the pictures in it."""
    return b"".join([chunk async for chunk in request.stream()])


def json_object(body: bytes, most: int, example: str) -> dict[str, Any]:
    """Read a body that is a JSON object.

    Args:
        body: as it came.
        most: how many values it may have; more take long to read.
        example: of what to send.

    Raises:
        BodyTooLarge: it has more values.
        InvalidRequest: it is something else.
    """
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > most:
        raise BodyTooLarge(f"The JSON has more than {most:,} values. Send pictures as files, not as numbers.")
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"The body is not JSON: {error}. Send an object such as {example}.") from None
    if not isinstance(fields, dict):
        raise InvalidRequest(f"The body is not a JSON object such as {example}.")
    return fields


def refuse_encoded(request: Request) -> None:
    """Pictures are compressed already, and a body that is inflated here could be of any size."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(
            f"The content encoding {shorten(encoding)!r} is not read. Send the body as it is, without Content-Encoding."
        )


def timeout_of(request: Request) -> float | None:
    """Read ``X-Request-Timeout-Ms``; None where it was not sent.

    Raises:
        InvalidOption: it is not a whole number above zero.
    """
    text = request.headers.get("x-request-timeout-ms")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and text.strip("0")):
        raise InvalidOption("X-Request-Timeout-Ms must be a whole number of milliseconds, 1 or more.")
    return float(text) / 1000  # be it infinite: it is cut to what the operator allows


def client_of(request: Request) -> dict[str, Any]:
    """Say whose request it is: that of an API key, or of an address where there are none."""
    state = request.scope["state"]
    address = request.client.host if request.client else ""
    return {"client": state.get("key", address)} | {name: state[name] for name in ("weight", "charge") if name in state}


def accepted_format(request: Request) -> ImageFormat | None:
    """Return ``png``, ``jpeg`` or ``webp`` if the client would rather have such an image than JSON, otherwise None.

    By the q-values of ``Accept``. Of equal images the first named counts; on equal terms JSON.
    """
    ranges = _media_ranges(",".join(request.headers.getlist("accept")))
    places = {kind: place for place, kind in enumerate(ranges)}

    def worth(kind: str) -> tuple[float, int]:
        asked = kind if kind in ranges else "image/*"
        return ranges.get(asked, 0.0), -places.get(asked, 0)

    best = max(_FORMATS, key=worth)
    json = next((ranges[kind] for kind in ("application/json", "application/*", "*/*") if kind in ranges), 0.0)
    return _FORMATS[best] if worth(best)[0] > json else None


def wants_json(request: Request) -> bool:
    """Whether ``Accept`` names JSON, and no page that the client would rather have."""
    ranges = _media_ranges(",".join(request.headers.getlist("accept")))
    return ranges.get("application/json", 0.0) > ranges.get("text/html", 0.0)


def _media_ranges(header: str) -> dict[str, float]:
    """Return the media ranges that a client accepts, in its order, with the q-value of each."""
    ranges: dict[str, float] = {}
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((match for parameter in parameters if (match := _QUALITY.fullmatch(parameter))), None)
        ranges.setdefault(kind, float(quality[1]) if quality else 1.0)
    return ranges


async def read_in_thread(request: Request, read: Callable[[], T], size: int) -> T:
    """Read a body of ``size`` bytes: in a thread, by turns with others, unless it is small.

    Raises:
        Whatever ``read`` does.
    """
    if size <= _SMALL_BYTES:
        return read()
    explainer: Explainer = request.state.explainer
    client = client_of(request)
    return await explainer.in_thread(read, size, client["client"], client.get("weight", 1.0))


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work``, but give it up if the client goes away: its pictures are then not computed.

    Raises:
        ClientDisconnect: it went away.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise ClientDisconnect
        return await task
    finally:
        gone.cancel()
        task.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
