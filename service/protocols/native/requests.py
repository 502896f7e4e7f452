"""The three encodings of a native request, read into what the engine is asked."""

from __future__ import annotations

import base64
import binascii
import re
import string
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from pydantic import ValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.engine.request import Request, Upload
from service.errors import (
    BodyTooLarge,
    InvalidImage,
    InvalidOption,
    InvalidRequest,
    NoImage,
    TooManyImages,
    UnsupportedMediaType,
    closest,
    shorten,
)
from service.options import OPTIONS, attributes_of
from service.wire import ExplainOptions, ExplainRequest, PredictOptions, PredictRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import FormData
    from starlette.formparsers import MultipartPart
    from starlette.requests import Request as HttpRequest

    from service.engine.explainer import Explainer
    from service.settings import Settings
    from service.vocabulary import ImageFormat, Operation
    from service.wire import ImageInput, NativeOptions, NativeRequest

__all__ = ["accepted_format", "read_request"]

_REPEATABLE = {name for name, option in OPTIONS.items() if option.repeatable}
# What all options may have together, each as often as it may be given; and as much again, to say what is wrong.
_MAX_VALUES = 2 * sum(option.about.most or 1 for option in OPTIONS.values())
_MAX_FIELD_BYTES = 16 * 1024
# Values in JSON are counted by its signs, which stand in labels, too; and a picture has some of its own.
_SIGNS_PER_VALUE, _SIGNS_PER_IMAGE = 8, 8
# What is larger is read in a thread.
_SMALL_BYTES = 64 * 1024
_BASE64_CHUNK = 2**20  # a multiple of four
_MAX_WORDED = 5
_SLASHES = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_DATA_URI = re.compile(r"data:[^,]{0,200};base64,")
_FORMATS: Mapping[str, ImageFormat] = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/webp": "webp",
}
_QUALITY = re.compile(r"q\s*=\s*(0(?:\.\d*)?|1(?:\.0*)?)")
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?([\w!#$%&+^`{}~.-]*)'[^']*'([^\s;\"]*)", re.IGNORECASE)
_NO_BOUNDARY, _NOT_CLOSED = "no boundary", "not closed"


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
        timeout_s=_timeout_s(http),
        **_client(http),
        **attributes_of(options.given()),
    )


def _client(http: HttpRequest) -> dict[str, Any]:
    """Say whose request it is: that of an API key, or of an address where there are none."""
    state = http.scope["state"]
    address = http.client.host if http.client else ""
    return {"client": state.get("key", address)} | {name: state[name] for name in ("weight", "charge") if name in state}


async def _read(
    request: HttpRequest, options_type: type[NativeOptions], json_type: type[NativeRequest]
) -> tuple[NativeOptions, list[Upload]]:
    _refuse_encoded(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    settings: Settings = request.state.settings
    query = _gather(request)
    if content_type == "multipart/form-data":
        fields, uploads = await _read_form(request, settings.max_images)
        return _validate(options_type, query | fields), uploads
    if content_type == "application/json":
        return await _read_json(request, options_type, json_type, query)
    if content_type.startswith("image/") or content_type == "application/octet-stream":
        body = await _body(request)
        return _validate(options_type, query), [Upload(body)] if body else []
    sent = f"{shorten(content_type)!r} is not one of them" if content_type else "none was sent"
    raise UnsupportedMediaType(
        f"Send pictures as multipart/form-data, as application/json, or as the body itself with a content type of "
        f"image/…; {sent}. With curl: -F image=@FILE."
    )


def _refuse_encoded(request: HttpRequest) -> None:
    """Pictures are compressed already, and a body that is inflated here could be of any size."""
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(
            f"The content encoding {shorten(encoding)!r} is not read. Send the body as it is, without Content-Encoding."
        )


def _timeout_s(request: HttpRequest) -> float | None:
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


def accepted_format(request: HttpRequest) -> ImageFormat | None:
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


def _media_ranges(header: str) -> dict[str, float]:
    """Return the media ranges that a client accepts, in its order, with the q-value of each."""
    ranges: dict[str, float] = {}
    for part in header.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((match for parameter in parameters if (match := _QUALITY.fullmatch(parameter))), None)
        ranges.setdefault(kind, float(quality[1]) if quality else 1.0)
    return ranges


async def _body(request: HttpRequest) -> bytes:
    """Read the body. ``request.body()`` would hold on to it until the answer is sent, beside the pictures in it."""
    return b"".join([chunk async for chunk in request.stream()])


async def _read_form(request: HttpRequest, max_images: int) -> tuple[dict[str, Any], list[Upload]]:
    parser = _FormParser(
        request.headers,
        request.stream(),
        max_files=max_images,
        max_fields=_MAX_VALUES,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _form_error(error.message, max_images) from error
    except UnicodeError as error:  # a "charset" in the content type that Python knows and the form is not written in
        raise _form_error(str(error), max_images) from error
    try:
        return await _split_form(form)
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Refuses a body that stops before its closing boundary; Starlette's parser drops the last part in silence.

    Pictures stay in memory, where ``max_inflight_bytes`` counts them: a disk may be full, and a tmpfs is memory, too.
    """

    spool_max_size = 0  # no file, however much
    _ended = False

    def on_headers_finished(self) -> None:
        """Take a part for a file where its content type or an extended file name (RFC 8187) says so, too."""
        part = self._current_part
        _, options = parse_options_header(part.content_disposition)
        name = None if b"filename" in options else _other_name(part, options.get(b"name"))
        if name is not None and part.content_disposition:
            part.content_disposition += b'; filename=""'
        super().on_headers_finished()
        if name and part.file is not None:
            part.file.filename = name

    def on_end(self) -> None:
        """Take note of the closing boundary."""
        self._ended = True

    async def parse(self) -> FormData:
        """Read the form.

        Raises:
            MultiPartException: it is malformed, or ends too early.
        """
        if not parse_options_header(self.headers["Content-Type"])[1].get(b"boundary"):
            raise MultiPartException(_NO_BOUNDARY)
        form = await super().parse()
        if not self._ended:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException(_NOT_CLOSED)
        return form


def _other_name(part: MultipartPart, field: bytes | None) -> str | None:
    """Return the file name of a part that is a picture without a plain one, "" if it has none; None for text."""
    if match := _EXTENDED_NAME.search(part.content_disposition or b""):
        charset, name = match[1].decode("ascii") or "utf-8", unquote_to_bytes(match[2])
        try:
            return name.decode(charset)
        except (LookupError, UnicodeError):
            return name.decode("latin-1")
    kind = dict(part.item_headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
    is_file = kind.startswith(b"image/") or (field == b"image" and kind == b"application/octet-stream")
    return "" if is_file else None


def _form_error(detail: str, max_images: int) -> InvalidRequest | TooManyImages | BodyTooLarge:
    if detail.startswith("Too many files"):
        return TooManyImages(f"There are too many pictures for one request; send {max_images} at most.")
    if detail.startswith(("Too many fields", "Part exceeded")):
        return BodyTooLarge(
            f"The form has more than {_MAX_VALUES} fields, or one of more than {_MAX_FIELD_BYTES} bytes. "
            "A part that holds a picture needs a filename; with curl, use -F image=@FILE."
        )
    if detail == _NO_BOUNDARY:
        return InvalidRequest(
            "The content type multipart/form-data names no boundary. Let the client write that header: "
            "curl with -F image=@FILE and without -H Content-Type does, and so do requests, httpx and fetch."
        )
    if detail == _NOT_CLOSED:
        return InvalidRequest(
            "The multipart body ends too early: its closing boundary is missing. Check that all of it was sent, and "
            "that the boundary is the one that the content type names. With curl, use -F image=@FILE."
        )
    return InvalidRequest("The multipart body is malformed or ends too early. With curl, use -F image=@FILE.")


async def _split_form(form: FormData) -> tuple[dict[str, Any], list[Upload]]:
    uploads: list[Upload] = []
    fields: list[tuple[str, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name != "image":
                raise NoImage(
                    f"The form part {shorten(name)!r} holds a file; the part with a picture is named 'image'."
                )
            uploads.append(Upload(await value.read(), _clean(value.filename)))
        elif name == "image":
            raise NoImage("The form part 'image' holds text, not a file. With curl: -F image=@FILE, with the @.")
        else:
            fields.append((name, value))
    gathered: dict[str, Any] = {}
    for name, value in fields:
        gathered.setdefault(name, []).append(value)
    return _single(gathered), uploads


def _clean(filename: str | None) -> str | None:
    """Strip a file name, which comes back in answers, of control characters, length, and what leads out of a folder."""
    printable = "".join(character for character in filename or "" if character.isprintable())
    steps = [step for step in _SLASHES.split(printable) if step not in {"", ".", ".."} and not _DRIVE.fullmatch(step)]
    return shorten("/".join(steps), 255) or None


def _gather(request: HttpRequest) -> dict[str, Any]:
    """Read the query string, unless it has more names and values than all options together."""
    values = request.scope["query_string"].count(b"&") + 1
    if values > _MAX_VALUES:
        raise InvalidOption(
            f"The query string has {values} values; all options together have no more than {_MAX_VALUES}. "
            "Pictures are sent in the body."
        )
    query = request.query_params
    return _single({name: query.getlist(name) for name in query})


def _single(fields: Mapping[str, list[str]]) -> dict[str, Any]:
    """Turn the lists of options that may not be repeated into their one value."""
    for name, values in fields.items():
        if name not in _REPEATABLE and len(values) > 1:
            raise InvalidOption(
                f"The option {shorten(name)!r} is given {len(values)} times; it can have one value only."
            )
    return {name: values if name in _REPEATABLE else values[0] for name, values in fields.items()}


async def _read_json(
    request: HttpRequest,
    options_type: type[NativeOptions],
    json_type: type[NativeRequest],
    query: dict[str, Any],
) -> tuple[NativeOptions, list[Upload]]:
    body, settings = await _body(request), request.state.settings

    def read() -> tuple[NativeOptions, list[Upload]]:
        most = _SIGNS_PER_VALUE * _MAX_VALUES + _SIGNS_PER_IMAGE * settings.max_images
        fields, images = _parse_json(body, json_type, most)
        uploads = [_upload_of(image, index) for index, image in enumerate(images)]
        return _validate(options_type, query | fields), uploads

    if len(body) <= _SMALL_BYTES:
        return read()
    explainer: Explainer = request.state.explainer
    client = _client(request)
    return await explainer.in_thread(read, len(body), client["client"], client.get("weight", 1.0))


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
                f"{where!r}: {_lower_first(detail['msg'])}. "
                '"images" is a list of objects such as {"b64": "…", "filename": "cat.jpg"}.'
            )
    return option_error(error, json_type)


def _upload_of(image: ImageInput, index: int) -> Upload:
    """Decode the base64 of one picture; where it is none, that picture alone has the error."""
    payload = image.b64[match.end() :] if (match := _DATA_URI.match(image.b64)) else image.b64
    filename = _clean(image.filename)
    try:
        return Upload(_decoded(payload), filename)
    except (binascii.Error, ValueError):
        error = InvalidImage(f"'images.{index}.b64' is not valid base64. Encode the file's bytes as they are.")
        return Upload(b"", filename, error)


def _decoded(base64_text: str) -> bytes:
    """Decode base64, white space aside; piece by piece, so that no thread has to wait long for this one.

    Raises:
        ValueError: it is not valid; binascii.Error is one.
    """
    text = base64_text.encode("ascii").translate(None, string.whitespace.encode())
    pieces = (text[begin : begin + _BASE64_CHUNK] for begin in range(0, len(text), _BASE64_CHUNK))
    decoded = [base64.b64decode(piece, validate=True) for piece in pieces]
    if any(len(piece) < _BASE64_CHUNK // 4 * 3 for piece in decoded[:-1]):
        raise ValueError("there is padding before the end")
    return b"".join(decoded)


def _validate(options_type: type[NativeOptions], fields: dict[str, Any]) -> NativeOptions:
    try:
        return options_type.model_validate(fields)
    except ValidationError as error:
        raise option_error(error, options_type) from error


def option_error(error: ValidationError, options_type: type[NativeOptions]) -> InvalidOption:
    """Word a validation error: which option, what is wrong, and what was probably meant."""
    problems = []
    suggestions: list[str] = []
    for detail in error.errors(include_url=False, include_context=False, include_input=False)[:_MAX_WORDED]:
        name = ".".join(str(part) for part in detail["loc"][:1])
        if detail["type"] == "extra_forbidden":
            suggestions += closest(name, options_type.model_fields)
            problems.append(f"there is no option {shorten(name)!r}")
        else:
            problems.append(f"{shorten(name)!r}: {_lower_first(detail['msg'])}")
    meant = f" Did you mean {' or '.join(repr(name) for name in suggestions)}?" if suggestions else ""
    text = "; ".join(dict.fromkeys(problems))
    return InvalidOption(f"{text[:1].upper()}{text[1:]}.{meant}", suggestions=suggestions)


def _lower_first(text: str) -> str:
    return f"{text[:1].lower()}{text[1:]}"
