"""Forms whose files go to the disk as they come, under numbers: what somebody calls them leads nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
        if sum(each.field == part.field_name for each in self.stored) >= rule.files:
            raise TooManyImages(f"There are too many files {part.field_name!r}; send {rule.files} at most.")
        part.file.file.close()
        stored = StoredFile(part.field_name, clean_filename(part.file.filename), self.folder / f"{len(self.stored):05}")
        part.file = _Writing(stored, rule)
        self.stored.append(stored)


class _Writing(UploadFile):
    """A file that is open while it comes, and no longer."""

    def __init__(self, stored: StoredFile, rule: Allowed) -> None:
        self._stored, self._rule = stored, rule
        self._count = 0
        stored.path.touch(mode=0o600)
        super().__init__(stored.path.open("ab", buffering=0), filename=stored.name)

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
            await asyncio.to_thread(self.file.write, data[:room])

    async def seek(self, offset: int) -> None:  # the parser rewinds what has come
        """Close it."""
        del offset
        self.file.close()
