"""What is done of an export, kept beside its output until all of it is: whatever ends the process, the rest can follow.

A line of JSON each: first what was asked for, then a record per picture. Lines are only ever added; one that the end of
the process cut off is dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import IO, TYPE_CHECKING, Any

from pydantic import ValidationError

from service.errors import InvalidOption
from service.export.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Self

__all__ = ["Journal", "stamp_of"]

Stamp = tuple[int, int]


def stamp_of(file: Path) -> Stamp:
    """Return what tells a file from one that took its place: its size, and when it was written (ns); 0 without one."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class Journal:
    """Records on their way to a file; a context manager.

    Args:
        path: where they are kept.
        asked: what the export is of; JSON. One that was begun with other values is not gone on with.

    Raises:
        InvalidOption: there is a journal of another export, or another process adds to it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, asked: Mapping[str, Any]) -> None:
        self.path = path
        self._places: dict[str, tuple[Stamp, int]] = {}
        header = json.loads(json.dumps(asked))
        self._file = _locked(path)
        try:
            end = self._read(header)
            self._file.truncate(end)
            self._file.seek(end)
            if not end:
                self._write(header)
        except BaseException:
            self._file.close()
            raise

    def _read(self, asked: dict[str, Any]) -> int:
        """Find the records that there are; return where the last whole line ends, 0 to begin anew."""
        there: Any = None
        end = 0
        self._file.seek(0)
        for number, line in enumerate(self._file):
            try:
                entry = json.loads(line) if line.endswith(b"\n") else {}
                if number == 0:
                    there = entry
                else:
                    self._places[entry["record"]["file"]] = (tuple(entry["stamp"]), end)
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
        if self._places and there != asked:
            raise InvalidOption(self._differs(there, asked))
        return end if self._places else 0

    def _differs(self, there: Any, asked: dict[str, Any]) -> str:
        known = there if isinstance(there, dict) else {}
        differ = ", ".join(name for name in asked if known.get(name) != asked[name]) or "something"
        return (
            f"An export to this file was begun with other values of {differ}. Give the same again to go on with it, or "
            f"remove {self.path} to begin anew."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def has(self, name: str, stamp: Stamp) -> bool:
        """Whether there is a record of a file, as it is now."""
        return self._places.get(name, (None, 0))[0] == stamp

    def add(self, record: Record, stamp: Stamp) -> None:
        """Keep a record."""
        place = self._file.tell()
        self._write({"record": record.model_dump(mode="json", exclude_defaults=True), "stamp": stamp})
        self._places[record.file] = (stamp, place)

    def _write(self, entry: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._file.flush()

    def records(self, names: list[str]) -> Iterator[Record]:
        """Yield the records of files, one at a time: all together may be more than the memory holds."""
        with self.path.open("rb") as file:
            for name in names:
                file.seek(self._places[name][1])
                try:
                    yield Record.model_validate(json.loads(file.readline())["record"])
                except ValidationError as error:
                    raise InvalidOption(f"{self.path} is damaged. Remove it, and begin anew.") from error

    def remove(self) -> None:
        """Remove the journal: its export is written."""
        self.path.unlink()
        self._file.close()


def _locked(path: Path) -> IO[bytes]:
    """Open a journal that nobody else adds to, and nobody else will until it is closed.

    Raises:
        InvalidOption: somebody does.
    """
    while True:
        file = path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InvalidOption(f"Another export is writing this file; {path} is its journal. Wait for it.") from None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # whoever had it has removed it
