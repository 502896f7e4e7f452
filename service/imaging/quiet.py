"""Keep Pillow's warnings about odd files from leaving the decoder, in this thread only.

Under ``-W error`` a warning about a corrupt EXIF tag would refuse a picture that reads well, and
``warnings.catch_warnings`` swaps process-wide state, so two decoding threads would undo each other's filters. Instead
the ``warnings`` name inside Pillow's modules is bound, once, to a stand-in that says nothing while the calling thread
decodes and passes everything on otherwise.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
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


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings in this thread for the length of the block; other threads are not touched."""
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
