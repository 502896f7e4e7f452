"""A picture as TorchServe's clients send it, read into what the engine is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from starlette.datastructures import UploadFile

from service.engine.request import Request, Upload
from service.errors import InvalidOption, NoImage, TooManyImages, shorten
from service.http.base64 import picture_of
from service.http.forms import clean_filename, read_form
from service.http.options import check_one_map, query_options, refuse, single, validated
from service.http.requests import (
    accepted_format,
    body_of,
    client_of,
    json_object,
    read_in_thread,
    refuse_encoded,
    timeout_of,
)
from service.options import attributes_of
from service.vocabulary import ImageFormat
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request as HttpRequest

    from service.vocabulary import Operation, Output, Size

__all__ = ["read_request"]

_JSON_NAMES = ("data", "body")
_MAX_SIGNS = 10_000
_EXAMPLE = '{"data": "…", "target": 281}, or the picture itself, with -T FILE'
# Options of the native API that are said otherwise here.
_INSTEAD = {
    "output": "an explanation is numbers, or the overlay where 'format' is png, jpeg or webp",
    "scores": "the answer has no room for them; ask /api/v1",
    "verify": "the answer has no room for what comes out; ask /api/v1 or /v1",
    "region": "the answer has no room for how much of the map lies in it; ask /api/v1",
}


async def read_request(http: HttpRequest, op: Operation, model: str, version: str | None) -> tuple[Request, Size]:
    """Read a request: a form with one file by whatever name, JSON with ``data``, or the picture as the body.

    Returns:
        It, and the grid of a map that is sent as numbers.

    Raises:
        InvalidRequest, InvalidImage, NoImage, TooManyImages, BodyTooLarge: the body cannot be used.
        InvalidOption: an option is unknown or out of range.
    """
    refuse_encoded(http)
    query = query_options(http)
    fields, upload = await _read(http)
    options = query | fields
    image_format = _format(http, options)
    refuse(options, _INSTEAD)
    size: Size = options.get("size", "layer")
    attributes = attributes_of(validated(ExplainOptions, options).given())
    if op == "explain":
        check_one_map(attributes)
        outputs: tuple[Output, ...] = ("map",) if image_format is None else ("overlay",)
        attributes |= {"outputs": outputs, "image_format": image_format or "auto"}
    asked = Request(
        [upload],
        op=op,
        model=model,
        version=version,
        timeout_s=timeout_of(http),
        **client_of(http),
        **attributes,
    )
    return asked, size


def _format(http: HttpRequest, options: dict[str, Any]) -> ImageFormat | None:
    """Take the format of a picture out of the options, or out of ``Accept``; None where numbers are wanted."""
    given = options.pop("format", None)
    if given is None:
        return accepted_format(http)
    if given == "json":
        return None
    formats: dict[str, ImageFormat] = {name: name for name in get_args(ImageFormat) if name != "auto"}
    if not isinstance(given, str) or given not in formats:
        raise InvalidOption(f"'format' must be json, {', '.join(formats)}, not {shorten(repr(given))}.")
    return formats[given]


async def _read(http: HttpRequest) -> tuple[dict[str, Any], Upload]:
    content_type = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        return await _read_form(http)
    body = await body_of(http)
    if content_type == "application/json":
        return await read_in_thread(http, lambda: _read_json(body), len(body))
    if not body:
        raise NoImage("The body is empty. With curl: -T FILE, or -F data=@FILE.")
    return {}, Upload(body)  # whatever the type says: curl's --data-binary calls a picture a form


async def _read_form(http: HttpRequest) -> tuple[dict[str, Any], Upload]:
    files: list[Upload] = []
    fields: dict[str, list[str]] = {}
    async with read_form(http, http.state.settings.max_images) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files.append(Upload(await value.read(), clean_filename(value.filename)))
            else:
                fields.setdefault(name, []).append(value)
    if len(files) > 1:
        raise TooManyImages("The form has several files, and the answer is about one. Send a request for each.")
    if not files:
        raise NoImage("The form has no file. With curl: -F data=@FILE, with the @.")
    return single(fields), files[0]


def _read_json(body: bytes) -> tuple[dict[str, Any], Upload]:
    fields = json_object(body, _MAX_SIGNS, _EXAMPLE)
    options = {name: value for name, value in fields.items() if name not in _JSON_NAMES and value is not None}
    return options, Upload(_picture(fields))


def _picture(fields: Mapping[str, Any]) -> bytes:
    name = next((name for name in _JSON_NAMES if name in fields), "data")
    value = fields.get(name)
    if isinstance(value, dict) and "b64" in value:
        name, value = f"{name}.b64", value["b64"]
    if not isinstance(value, str):
        raise NoImage('There is no picture. Send its file in base64 as "data".')
    return picture_of(value, name)
