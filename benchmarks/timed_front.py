"""``camserve`` whose front counts what decoding, resizing and drawing take of its CPU time, in requests as they come.

By itself the same work takes less: nobody else writes into the caches. It is started as
``python -m benchmarks.timed_front FILE serve …``, and keeps the seconds so far in the file.
"""

from __future__ import annotations

import mmap
import struct
import sys
import threading
import time
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.cli import main
from service.engine import drawing, pipeline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SECONDS = struct.Struct("d")


def seconds_in(file: Path) -> float:
    """Read what a front has counted so far."""
    return float(_SECONDS.unpack(file.read_bytes())[0])


@contextmanager
def _counting(file: Path) -> Iterator[None]:
    """Count the pictures' functions of the front."""
    file.write_bytes(_SECONDS.pack(0.0))
    lock, seconds = threading.Lock(), 0.0
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), _SECONDS.size) as kept:

        def counted(work: Callable[..., Any]) -> Callable[..., Any]:
            @wraps(work)
            def run(*args: Any, **options: Any) -> Any:
                nonlocal seconds
                began = time.thread_time()
                try:
                    return work(*args, **options)
                finally:
                    took = time.thread_time() - began
                    with lock:
                        seconds += took
                        _SECONDS.pack_into(kept, 0, seconds)

            return run

        for module, name in (
            (pipeline, "open_picture"),
            (pipeline, "decode_for"),
            (pipeline, "preprocess"),
            (drawing, "render"),
        ):
            setattr(module, name, counted(getattr(module, name)))
        yield


if __name__ == "__main__":
    with _counting(Path(sys.argv.pop(1))):
        sys.exit(main())
