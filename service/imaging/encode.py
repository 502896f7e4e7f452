"""Pixels to files: the cheapest format that loses nothing that matters."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from service.vocabulary import ImageFormat

__all__ = ["EncodedImage", "encode_grey", "encode_indexed", "encode_photo", "indexed"]

# Saving would do so with the first picture, which must not wait for an import, nor fail where no file can be opened.
Image.preinit()

# Registering here spares Image.save from importing every plugin there is.
_PLUGINS = {"png": PngImagePlugin, "jpeg": JpegImagePlugin, "webp": WebPImagePlugin}
_LOSSY: dict[str, dict[str, Any]] = {
    "png": {"compress_level": 1},
    "jpeg": {"quality": 85},
    "webp": {"quality": 85, "method": 0},
}
_LOSSLESS: dict[str, dict[str, Any]] = _LOSSY | {"webp": {"lossless": True, "quality": 0, "method": 0, "exact": True}}


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A picture as a file: its media type, its size in pixels, its bytes."""

    media_type: str
    width: int
    height: int
    data: bytes = field(repr=False)


def indexed(levels: NDArray[np.uint8], palette: bytes) -> Image.Image:
    """Return a palette picture over ``levels``, (h, w) C-contiguous; ``palette`` is 768 bytes RGB."""
    height, width = levels.shape
    image = Image.frombuffer("P", (width, height), levels, "raw", "P", 0, 1)
    image.putpalette(palette)
    return image


def encode_indexed(image: Image.Image, image_format: ImageFormat) -> EncodedImage:
    """Encode a palette picture whose entry 0 is transparent; "auto" is PNG. A JPEG shows entry 0's own colour."""
    if image_format == "jpeg":
        return _encode(image.convert("RGB"), "jpeg", _LOSSY["jpeg"])
    if image_format == "webp":
        image = image.copy()
        image.info["transparency"] = 0
        return _encode(image.convert("RGBA"), "webp", _LOSSLESS["webp"])
    return _encode(image, "png", _LOSSLESS["png"] | {"transparency": 0})


def encode_grey(values: NDArray[np.uint8], image_format: ImageFormat) -> EncodedImage:
    """Encode 8-bit grey, (h, w); "auto" is PNG."""
    name = "png" if image_format == "auto" else image_format
    return _encode(Image.fromarray(values), name, _LOSSLESS[name])


def encode_photo(pixels: NDArray[np.uint8], image_format: ImageFormat) -> EncodedImage:
    """Encode RGB, (h, w, 3); "auto" is JPEG."""
    name = "jpeg" if image_format == "auto" else image_format
    return _encode(Image.fromarray(pixels), name, _LOSSY[name])


def _encode(image: Image.Image, name: str, options: dict[str, Any]) -> EncodedImage:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return EncodedImage(f"image/{name}", image.width, image.height, buffer.getvalue())
