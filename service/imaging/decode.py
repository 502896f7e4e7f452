"""Bytes to an upright RGB picture, with every limit checked before a pixel is decoded.

Nothing but ``service.errors`` leaves :func:`decode`, whatever the bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from service.errors import ImageTooLarge, InvalidImage
from service.imaging.headers import MAX_PARTS, count_frames, count_parts, sniff, webp_size
from service.imaging.modes import to_rgb
from service.imaging.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

__all__ = ["DecodeLimits", "DecodedImage", "Header", "decode", "read_header"]

# Pillow's classes rather than Image.open: only these formats, no warnings of its own, no size limit of its own.
_OPENERS: dict[str, Callable[[io.BytesIO], ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_READABLE = "JPEG, PNG, WebP, GIF, BMP or TIFF"

# EXIF orientation → what makes the picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a picture may cost: bytes of the file, pixels (width × height) of a frame, frames."""

    max_bytes: int
    max_pixels: int
    max_frames: int


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """A picture, upright and in RGB.

    Attributes:
        rgb: the pixels, possibly at a reduced scale.
        width: of the upright picture at full size, in pixels. All coordinates of the service refer to it.
        height: likewise.
        sha256: of the bytes, as hex.
        format: Pillow's name: JPEG, PNG, WEBP, GIF, BMP, TIFF.
        extent: (left, top, right, bottom) of the full picture in pixels of ``rgb``. A JPEG decoded at 1/8 has
            ``ceil(width / 8)`` columns, of which one may lie partly outside; None means all of ``rgb``.
    """

    rgb: Image.Image
    width: int
    height: int
    sha256: str
    format: str
    extent: tuple[float, float, float, float] | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """``extent``, or all of ``rgb`` where it is None."""
        return self.extent or (0.0, 0.0, float(self.rgb.width), float(self.rgb.height))


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    Attributes:
        width: of the upright picture, in pixels; that of the stored one where the orientation stands behind the pixels.
        height: likewise.
        pixels: how many ``decode`` makes room for, up to 16 bytes for each at its height. A JPEG counts in full though
            it may be decoded at a reduced scale: libjpeg holds all of it where it comes in several scans.
    """

    width: int
    height: int
    pixels: int


def read_header(data: bytes, limits: DecodeLimits) -> Header:
    """Read no more of a picture than tells what decoding it will cost; raises what ``decode`` raises."""
    _check("bytes", len(data), limits.max_bytes)
    name = _recognise(data)
    if name == "WEBP" and (size := webp_size(data)):  # Pillow would make room for the canvas
        _check_size(size, limits)
        return Header(*size, size[0] * size[1])
    with quiet():
        image = _open(data, name, limits)
        width, height = image.size[::-1] if name == "JPEG" and _orientation(image) >= 5 else image.size
    pixels = width * height
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        pixels = max(pixels, math.prod(_tile(image)))
    return Header(width, height, pixels)


def decode(data: bytes, limits: DecodeLimits, scale_for: Callable[[int, int], float] | None = None) -> DecodedImage:
    """Decode a picture, apply its EXIF orientation, and convert it to RGB (see ``modes.to_rgb``).

    Args:
        data: the file. Of an animation or a multi-page file the first frame is read.
        limits: checked from the headers.
        scale_for: called with the upright full (width, height); returns the linear scale, in (0, 1], at which pixels
            are needed. A JPEG is then decoded at the smallest of 1, 1/2, 1/4, 1/8 that is not below it; the other
            formats are always decoded in full.

    Raises:
        InvalidImage: not a picture of a known format, or a broken or truncated one.
        ImageTooLarge: over a limit.

    Example:
        >>> image = decode(path.read_bytes(), DecodeLimits(20_000_000, 50_000_000, 100))
        >>> image.width, image.height
        (640, 480)
    """
    _check("bytes", len(data), limits.max_bytes)
    name = _recognise(data)
    with quiet():
        image = _open(data, name, limits)
        orientation = _orientation(image) if name == "JPEG" else 1
        width, height = image.size[::-1] if orientation >= 5 else image.size
        factor = _reduction(scale_for(width, height)) if scale_for and name == "JPEG" else 1
        rgb, extent = _load(image, name, orientation, factor)
    if name != "JPEG":
        width, height = rgb.size
    return DecodedImage(rgb, width, height, hashlib.sha256(data).hexdigest(), name, extent)


def _check(what: str, value: int, limit: int, note: str = "") -> None:
    if value > limit:
        message = f"The picture has {value:,} {what}{note}; the limit is {limit:,}. Send a smaller picture."
        raise ImageTooLarge(message, limit=limit, unit=what)


def _recognise(data: bytes) -> str:
    if not data:
        raise InvalidImage(f"The picture is empty (0 bytes). Send the bytes of a {_READABLE} file.")
    name = sniff(data)
    if name is None:
        raise InvalidImage(f"The bytes are not a picture in a known format. Send a {_READABLE} file.")
    return name


@contextlib.contextmanager
def _only_ours(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an error of the service."""
    try:
        yield
    except (ImageTooLarge, InvalidImage):
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        message = f"The {name} picture needs more memory than can be given to it. Send a smaller picture."
        raise ImageTooLarge(message) from error
    except Exception as error:
        message = (
            f"The {name} picture is truncated or damaged. Check that the whole file was sent; "
            "opening it in an image editor and saving it anew may repair it."
        )
        raise InvalidImage(message) from error


def _open(data: bytes, name: str, limits: DecodeLimits) -> ImageFile:
    """Read the header only, and hold it against the limits."""
    _check_parts(name, data)
    if name == "WEBP" and (size := webp_size(data)):
        _check_size(size, limits)
    with _only_ours(name):
        image = _OPENERS[name](io.BytesIO(data))
        _check_size(image.size, limits)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _check_size(_tile(image), limits)
        frames = count_frames(name, data, limits.max_frames)
        if name in ("PNG", "WEBP"):
            frames = max(frames, int(getattr(image, "n_frames", 1)))
    if frames > limits.max_frames:
        message = f"The picture has more frames than the limit of {limits.max_frames:,}. Send the frame you mean alone."
        raise ImageTooLarge(message, limit=limits.max_frames, unit="frames")
    return image


def _check_parts(name: str, data: bytes) -> None:
    limit = MAX_PARTS.get(name, 0)
    if count_parts(name, data) > limit:
        message = f"The {name} picture is made of more than {limit:,} parts. Save it anew, without metadata."
        raise ImageTooLarge(message, limit=limit, unit="parts")


def _tile(image: TiffImagePlugin.TiffImageFile) -> tuple[int, int]:
    """Return the (width, height) of a tile, for which libtiff makes room however small the picture is."""
    tags = image.tag_v2
    return int(tags.get(TiffImagePlugin.TILEWIDTH, 1)), int(tags.get(TiffImagePlugin.TILELENGTH, 1))


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImage(f"The picture states a size of {width} × {height} pixels. Send one with at least one pixel.")
    _check("pixels", width * height, limits.max_pixels, f" ({width} × {height})")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata is no reason to refuse a picture
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _reduction(scale: float) -> int:
    """Return the largest of 8, 4, 2, 1 whose inverse is not below ``scale``."""
    return next((factor for factor in (8, 4, 2) if factor * scale <= 1), 1)


def _load(
    image: ImageFile, name: str, orientation: int, factor: int
) -> tuple[Image.Image, tuple[float, float, float, float] | None]:
    """Decode the pixels and turn them upright."""
    full = image.size
    with _only_ours(name):
        if factor > 1:
            image.draft(image.mode, (max(1, full[0] // factor), max(1, full[1] // factor)))
        image.load()
        if name in ("PNG", "WEBP"):  # a PNG may carry its EXIF after the pixels; Pillow itself turns a TIFF upright
            orientation = _orientation(image)
        rgb = to_rgb(image)
        extent = _extent(full, rgb.size, image.decoderconfig, orientation) if factor > 1 else None
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
    return rgb, extent


def _extent(
    full: tuple[int, int], reduced: tuple[int, int], config: tuple[int, ...], orientation: int
) -> tuple[float, float, float, float]:
    """Return the box of the upright reduced picture that the full picture covers.

    libjpeg rounds the reduced size up; the pixels beyond the picture are at the right and at the bottom, until the
    picture is turned upright.
    """
    factor = config[0] if config else 1
    width, height = full[0] / factor, full[1] / factor
    columns, rows = reduced
    if orientation >= 5:
        width, height, columns, rows = height, width, rows, columns
    left = columns - width if orientation in (2, 3, 6, 7) else 0.0
    top = rows - height if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + width, top + height
