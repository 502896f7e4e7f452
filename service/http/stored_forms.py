"""Forms whose files go to the disk as they come, under numbers: what somebody calls them leads nowhere."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException

from service.errors import BodyTooLarge, InvalidRequest, TooManyImages, UnsupportedMediaType, shorten
from service.http.forms import FormParser, clean_filename, form_error
from service.http.options import MAX_VALUES
from service.http.requests import refuse_encoded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from starlette.requests import Request

__all__ = ["Allowed", "StoredFile", "read_stored_form"]

_MAX_FIELD_BYTES = 16 * 1024


@dataclass(frozen=True)
class Allowed:
    """How many files of a field may come, and how long each may be.

    Attributes:
        files: how many.
        bytes: of each. What is longer is cut there, by one byte too late, so that whoever reads it knows.
        cut: whether it is, or refused.
    """

    files: int
    bytes: int
    cut: bool = True


@dataclass(frozen=True)
class StoredFile:
    """A file of a form: its field, the name under which it was sent, and where it is."""

    field: str
    name: str | None
    path: Path


async def read_stored_form(
    request: Request, folder: Path, allowed: Mapping[str, Allowed]
) -> tuple[dict[str, list[str]], list[StoredFile]]:
    """Read a form into a folder; return the values of its fields, and its files.

    Raises:
        UnsupportedMediaType: it is no form.
        InvalidRequest: it is malformed, ends too early, or has a file that is not expected.
        TooManyImages, BodyTooLarge: it has too many files, or too long ones.
        OSError: the disk is full.
    """
    refuse_encoded(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise UnsupportedMediaType(
            "Send this as multipart/form-data. With curl: -F image=@FILE, once for each picture."
        )
    most = sum(each.files for each in allowed.values()) + 1
    parser = _StoringParser(
        request.headers, request.stream(), max_files=most, max_fields=MAX_VALUES, max_part_size=_MAX_FIELD_BYTES
    )
    parser.folder, parser.allowed = folder, allowed
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise form_error(error.message, most) from error
    except UnicodeError as error:
        raise form_error(str(error), most) from error
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if not isinstance(value, UploadFile):
            if name in allowed:
                raise InvalidRequest(f"The form part {name!r} holds text, not a file. With curl: -F {name}=@FILE.")
            fields.setdefault(name, []).append(value)
    return fields, parser.stored


class _StoringParser(FormParser):
    """Puts files into a folder."""

    folder: Path
    allowed: Mapping[str, Allowed]

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]  # those of Starlette's
        self.stored: list[StoredFile] = []
        self._counts: Counter[str] = Counter()

    def on_headers_finished(self) -> None:
        """Give a part that is a file its place."""
        super().on_headers_finished()
        part = self._current_part
        if part.file is None:
            return
        rule = self.allowed.get(part.field_name)
        if rule is None:
            known = ", ".join(repr(name) for name in self.allowed)
            raise InvalidRequest(f"The form part {shorten(part.field_name)!r} holds a file; files are {known} here.")
        self._counts[part.field_name] += 1
        if self._counts[part.field_name] > rule.files:
            raise TooManyImages(f"There are too many files {part.field_name!r}; send {rule.files} at most.")
        part.file.file.close()
        stored = StoredFile(part.field_name, clean_filename(part.file.filename), self.folder / f"{len(self.stored):05}")
        part.file = _Writing(stored, rule, part.file.file)
        self.stored.append(stored)


class _Writing(UploadFile):
    """A file that is opened for each piece of it, in a thread: a piece of the body may begin thousands of them."""

    def __init__(self, stored: StoredFile, rule: Allowed, nowhere: BinaryIO) -> None:
        self._stored, self._rule = stored, rule
        self._count = 0
        super().__init__(nowhere, filename=stored.name)

    async def write(self, data: bytes) -> None:
        """Append to it.

        Raises:
            BodyTooLarge: it is longer than it may be.
        """
        room = self._rule.bytes + 1 - self._count
        self._count += len(data)
        if self._count > self._rule.bytes and not self._rule.cut:
            raise BodyTooLarge(f"The file {self._stored.field!r} has more than {self._rule.bytes} bytes. Send less.")
        if room > 0:
            await asyncio.to_thread(self._append, data[:room])

    def _append(self, data: bytes) -> None:
        with open(self._stored.path, "ab", buffering=0, opener=_private) as file:  # Path.open takes no opener
            file.write(data)

    async def seek(self, offset: int) -> None:  # the parser rewinds what has come
        """Make sure that it is there, empty as it may be."""
        del offset
        if not self._count:
            await asyncio.to_thread(self._append, b"")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
