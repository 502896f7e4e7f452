"""Forms, ``multipart/form-data``: their parts in memory, and what is wrong with them in words."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import BodyTooLarge, InvalidRequest, TooManyImages, shorten
from service.http.options import MAX_VALUES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.datastructures import FormData
    from starlette.formparsers import MultipartPart
    from starlette.requests import Request

__all__ = ["FormParser", "clean_filename", "form_error", "read_form"]

_MAX_FIELD_BYTES = 16 * 1024
_SLASHES = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*\"?([\w!#$%&+^`{}~.-]*)'[^']*'([^\s;\"]*)", re.IGNORECASE)
_NO_BOUNDARY, _NOT_CLOSED = "no boundary", "not closed"
# Names of the parts that hold pictures, in one protocol or another.
_PICTURE_FIELDS = {b"image", b"data", b"body"}


@asynccontextmanager
async def read_form(request: Request, max_images: int) -> AsyncIterator[FormData]:
    """Read a form, whose files are there as long as the block lasts.

    Raises:
        InvalidRequest: it is malformed, or ends too early.
        TooManyImages, BodyTooLarge: it has too many parts, or too long ones.
    """
    parser = FormParser(
        request.headers,
        request.stream(),
        max_files=max_images,
        max_fields=MAX_VALUES,
        max_part_size=_MAX_FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise form_error(error.message, max_images) from error
    except UnicodeError as error:  # a "charset" in the content type that Python knows and the form is not written in
        raise form_error(str(error), max_images) from error
    try:
        yield form
    finally:
        await form.close()


class FormParser(MultiPartParser):
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
    is_file = kind.startswith(b"image/") or (field in _PICTURE_FIELDS and kind == b"application/octet-stream")
    return "" if is_file else None


def form_error(detail: str, max_images: int) -> InvalidRequest | TooManyImages | BodyTooLarge:
    """Word what the parser has to say of a form."""
    if detail.startswith("Too many files"):
        return TooManyImages(f"There are too many pictures for one request; send {max_images} at most.")
    if detail.startswith(("Too many fields", "Part exceeded")):
        return BodyTooLarge(
            f"The form has more than {MAX_VALUES} fields, or one of more than {_MAX_FIELD_BYTES} bytes. "
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


def clean_filename(filename: str | None) -> str | None:
    """Strip a file name, which comes back in answers, of control characters, length, and what leads out of a folder."""
    printable = "".join(character for character in filename or "" if character.isprintable())
    steps = [step for step in _SLASHES.split(printable) if step not in {"", ".", ".."} and not _DRIVE.fullmatch(step)]
    return shorten("/".join(steps), 255) or None
