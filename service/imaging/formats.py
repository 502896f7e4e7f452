"""The formats that are read: who opens each, and under which names its files go."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

if TYPE_CHECKING:
    import io
    from collections.abc import Callable

    from PIL.ImageFile import ImageFile

__all__ = ["FORMATS", "READABLE", "suffixes"]

READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"
"""What to send, in words: what everybody can write."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is opened.

    Attributes:
        open: Pillow's class rather than ``Image.open``: this format alone, no warnings, no size limit of its own.
        suffixes: of its files, in small letters.
        is_there: whether the library that decodes it is installed.
    """

    open: Callable[[io.BytesIO], ImageFile]
    suffixes: tuple[str, ...]
    is_there: bool = True


# Imported at once where it is installed, though its libraries take megabytes: no request waits for an import then, nor
# fails because no file can be opened. Of the two packages pi_heif is the half that reads alone.
_HEIF = next(
    (importlib.import_module(name) for name in ("pillow_heif", "pi_heif") if importlib.util.find_spec(name)), None
)


def _reads_hevc() -> bool:
    """Whether the library has a decoder for what phones write: that of a distribution may be a package of its own."""
    return _HEIF is not None and any("HEVC" in each for each in _HEIF.libheif_info()["decoders"].values())


def _open_heif(stream: io.BytesIO) -> ImageFile:
    assert _HEIF is not None
    opened: ImageFile = _HEIF.as_plugin.HeifImageFile(stream)
    return opened


# By Pillow's names.
FORMATS: dict[str, Format] = {
    "JPEG": Format(JpegImagePlugin.JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif")),
    "PNG": Format(PngImagePlugin.PngImageFile, (".png", ".apng")),
    "WEBP": Format(WebPImagePlugin.WebPImageFile, (".webp",)),
    "GIF": Format(GifImagePlugin.GifImageFile, (".gif",)),
    "BMP": Format(BmpImagePlugin.BmpImageFile, (".bmp", ".dib")),
    "TIFF": Format(TiffImagePlugin.TiffImageFile, (".tif", ".tiff")),
    "AVIF": Format(AvifImagePlugin.AvifImageFile, (".avif", ".avifs"), features.check("avif") is True),
    "HEIF": Format(_open_heif, (".heic", ".heif", ".hif"), _reads_hevc()),
}


def suffixes() -> frozenset[str]:
    """Return the suffixes of all files that can be read, with what is installed."""
    return frozenset(suffix for each in FORMATS.values() if each.is_there for suffix in each.suffixes)
