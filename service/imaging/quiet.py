"""Keep what Pillow and libtiff say about odd files from leaving the decoder: Pillow's warnings in this thread only.

Under ``-W error`` a warning about a corrupt EXIF tag would refuse a picture that reads well, and
``warnings.catch_warnings`` swaps process-wide state, so two decoding threads would undo each other's filters. Instead
the ``warnings`` name inside Pillow's modules is bound, once, to a stand-in that says nothing while the calling thread
decodes and passes everything on otherwise.

libtiff prints its errors on stderr: whoever sends broken TIFFs would write into the log. Pillow turns off the warnings
only, so the errors are turned off here, in the library that Pillow loaded, for the whole process.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]


class _State(threading.local):
    depth = 0


_state = _State()


class _Warnings:
    """Stands in for the ``warnings`` module inside Pillow."""

    def warn(
        self, message: str, category: type[Warning] | None = None, stacklevel: int = 1, source: object = None
    ) -> None:
        if not _state.depth:
            warnings.warn(message, category, stacklevel + 1, source)

    def __getattr__(self, name: str) -> Any:
        return getattr(warnings, name)


for _module in (Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin):
    vars(_module)["warnings"] = _Warnings()


def _silence_libtiff() -> None:
    """Where the library cannot be found (no /proc, or linked in), it keeps talking."""
    with contextlib.suppress(OSError, AttributeError, IndexError):
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        library = next((line.split(maxsplit=5)[5] for line in mapped if "libtiff" in line), None)
        if library:
            ctypes.CDLL(library).TIFFSetErrorHandler(None)


_silence_libtiff()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings in this thread for the length of the block; other threads are not touched."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
