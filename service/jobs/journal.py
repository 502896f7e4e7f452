"""What an evaluation has found, appended to a file step by step: whoever kills the process, the next one goes on."""

from __future__ import annotations

import fcntl
import struct
import zlib
from typing import TYPE_CHECKING

from service.evaluation.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Journal"]

_HEAD = struct.Struct("<II")  # length and checksum of what follows
_MOST_BYTES = 1 << 30


class Journal(State):
    """A state whose steps are in a file as soon as they are found.

    Its last record may be cut off where a process was killed while it wrote; it and what follows are dropped.

    Args:
        file: where it is; made if it is not there.

    Attributes:
        found: steps that were not in the file when it was opened.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.found = 0
        file.touch(mode=0o600)
        self._stream = file.open("r+b")
        fcntl.flock(self._stream, fcntl.LOCK_EX)  # until a process before this one has ended for good
        whole = 0
        for end, record in _records(self._stream):
            self._steps |= State.from_bytes(record)._steps
            whole = end
        self._stream.seek(whole)
        self._stream.truncate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def put(self, step: str, found: Mapping[str, NDArray[np.generic]]) -> None:
        """Keep what a step has found, on the disk, too.

        Raises:
            OSError: the disk is full.
        """
        super().put(step, found)
        one = State()
        one.put(step, found)
        record = one.to_bytes()
        self._stream.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
        self._stream.flush()
        self.found += 1


def _records(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the whole records from the beginning, and where each ends."""
    while len(head := stream.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        record = stream.read(length) if length <= _MOST_BYTES else b""
        if len(record) < length or zlib.crc32(record) != checksum or not record:
            return
        yield stream.tell(), record
