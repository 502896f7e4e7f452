"""The three encodings of a native request, read into what the engine is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from starlette.datastructures import UploadFile

from service.engine.request import Request, Upload
from service.errors import (
    BodyTooLarge,
    InvalidImage,
    InvalidOption,
    InvalidRequest,
    NoImage,
    UnsupportedMediaType,
    shorten,
)
from service.http.base64 import picture_of
from service.http.forms import clean_filename, read_form
from service.http.options import MAX_VALUES, lower_first, option_error, query_options, single, validated
from service.http.requests import body_of, client_of, read_in_thread, refuse_encoded, timeout_of
from service.options import attributes_of
from service.wire import ExplainOptions, ExplainRequest, PredictOptions, PredictRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import FormData
    from starlette.requests import Request as HttpRequest

    from service.settings import Settings
    from service.vocabulary import Operation
    from service.wire import ImageInput, NativeOptions, NativeRequest

__all__ = ["read_request"]

# Values in JSON are counted by its signs, which stand in labels, too; and a picture has some of its own.
_SIGNS_PER_VALUE, _SIGNS_PER_IMAGE = 8, 8

_MODELS: Mapping[Operation, tuple[type[NativeOptions], type[NativeRequest]]] = {
    "predict": (PredictOptions, PredictRequest),
    "explain": (ExplainOptions, ExplainRequest),
}


async def read_request(http: HttpRequest, op: Operation, model: str | None, version: str | None = None) -> Request:
    """Read a request for ``model``, or for one version of it, in whichever encoding it comes.

    Options may stand in the query string with every encoding; where the body has the same option, the body's counts.

    Raises:
        UnsupportedMediaType: the content type is none of the three.
        InvalidRequest, InvalidImage, NoImage, TooManyImages, BodyTooLarge: the body cannot be used.
        InvalidOption: an option is unknown or out of range.
    """
    options, uploads = await _read(http, *_MODELS[op])
    return Request(
        uploads,
        op=op,
        model=model,
        version=version,
        timeout_s=timeout_of(http),
        **client_of(http),
        **attributes_of(options.given()),
    )


async def _read(
    request: HttpRequest, options_type: type[NativeOptions], json_type: type[NativeRequest]
) -> tuple[NativeOptions, list[Upload]]:
    refuse_encoded(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    settings: Settings = request.state.settings
    query = query_options(request)
    if content_type == "multipart/form-data":
        async with read_form(request, settings.max_images) as form:
            fields, uploads = await _split_form(form)
        return validated(options_type, query | fields), uploads
    if content_type == "application/json":
        return await _read_json(request, options_type, json_type, query)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        body = await body_of(request)
        return validated(options_type, query), [Upload(body)] if body else []
    sent = f"{shorten(content_type)!r} is not one of them" if content_type else "none was sent"
    raise UnsupportedMediaType(
        f"Send pictures as multipart/form-data, as application/json, or as the body itself with a content type of "
        f"image/…; {sent}. With curl: -F image=@FILE."
    )


async def _split_form(form: FormData) -> tuple[dict[str, Any], list[Upload]]:
    uploads: list[Upload] = []
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise NoImage(
                    f"The form part {shorten(name)!r} holds a file; the part with a picture is named 'image'."
                )
            uploads.append(Upload(await value.read(), clean_filename(value.filename)))
        elif name == "image":
            raise NoImage("The form part 'image' holds text, not a file. With curl: -F image=@FILE, with the @.")
        else:
            fields.append((name, value))
    gathered: dict[str, Any] = {}
    for name, value in fields:
        gathered.setdefault(name, []).append(value)
    return single(gathered), uploads


async def _read_json(
    request: HttpRequest,
    options_type: type[NativeOptions],
    json_type: type[NativeRequest],
    query: dict[str, Any],
) -> tuple[NativeOptions, list[Upload]]:
    body, settings = await body_of(request), request.state.settings

    def read() -> tuple[NativeOptions, list[Upload]]:
        most = _SIGNS_PER_VALUE * MAX_VALUES + _SIGNS_PER_IMAGE * settings.max_images
        fields, images = _parse_json(body, json_type, most)
        uploads = [_upload_of(image, index) for index, image in enumerate(images)]
        return validated(options_type, query | fields), uploads

    return await read_in_thread(request, read, len(body))


def _parse_json(
    body: bytes, json_type: type[NativeRequest], most_signs: int
) -> tuple[dict[str, Any], list[ImageInput]]:
    """Parse JSON of few values: parsed, an empty list takes a hundred times the room of its two bytes."""
    if sum(body.count(sign) for sign in (b",", b"[", b"{")) > most_signs:
        raise BodyTooLarge(f"The JSON has more than {most_signs} values. Send fewer pictures and options.")
    try:
        parsed = json_type.model_validate_json(body)
    except ValidationError as error:
        raise _json_error(error, json_type) from error
    return parsed.model_dump(exclude={"images"}, exclude_unset=True), parsed.images


def _json_error(error: ValidationError, json_type: type[NativeRequest]) -> InvalidRequest | InvalidOption:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    if any(not detail["loc"] for detail in details):
        return InvalidRequest(
            'The body is not a JSON object such as {"images": [{"b64": "…"}], "target": ["predicted"]}.'
        )
    for detail in details:
        if detail["loc"][0] == "images":
            where = shorten(".".join(str(part) for part in detail["loc"]))
            return InvalidRequest(
                f"{where!r}: {lower_first(detail['msg'])}. "
                '"images" is a list of objects such as {"b64": "…", "filename": "cat.jpg"}.'
            )
    return option_error(error, json_type)


def _upload_of(image: ImageInput, index: int) -> Upload:
    """Decode the base64 of one picture; where it is none, that picture alone has the error."""
    filename = clean_filename(image.filename)
    try:
        return Upload(picture_of(image.b64, f"images.{index}.b64"), filename)
    except InvalidImage as error:
        return Upload(b"", filename, error)
