"""Bytes to an upright RGB picture, with every limit checked before a pixel is decoded.

Nothing but ``service.errors`` leaves :func:`decode`, whatever the bytes.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging.channels import open_channels
from service.imaging.formats import FORMATS, READABLE
from service.imaging.headers import branded, count_frames, count_parts, sniff, webp_size
from service.imaging.quiet import quiet
from service.imaging.readers import check_parts, not_read, open_image, pixels_with_rows
from service.imaging.unread import unread_heif, unread_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.imaging.channels import Channels
    from service.imaging.readers import Box, Opened

__all__ = [
    "DecodeLimits",
    "DecodedImage",
    "Header",
    "Undecoded",
    "decode",
    "open_picture",
    "pixels_to_open",
    "read_header",
]


_SHOWN = (1, 3)  # channels that any picture has: grey, and colours


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
        rgb: the pixels; at a reduced scale where no more of them were needed.
        width: of the upright picture at full size, in pixels. All coordinates of the service refer to it.
        height: likewise.
        format: Pillow's name: JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF.
        channels: all that the file has, in mode L, where more or others are asked for than colours or grey.
        filled: which part of ``rgb`` the picture is, as (left, top, right, bottom), where it is not all.
    """

    rgb: Image.Image
    width: int
    height: int
    format: str
    channels: tuple[Image.Image, ...] = ()
    filled: Box | None = None

    @property
    def is_reduced(self) -> bool:
        """Whether there are fewer pixels than the picture has."""
        return self.rgb.size != (self.width, self.height)

    @property
    def box(self) -> Box:
        """The picture in ``rgb``, as (left, top, right, bottom)."""
        return self.filled or (0.0, 0.0, float(self.rgb.width), float(self.rgb.height))


@dataclass(frozen=True, slots=True)
class Header:
    """What is known of a picture before it is decoded.

    Attributes:
        width: of the upright picture, in pixels; that of the stored one where the orientation stands behind the pixels.
        height: likewise.
        pixels: how many ``decode`` makes room for, up to 16 bytes for each at its height. Samples of many bits, the
            strips and tiles of a TIFF, and rows count for the room that they take.
    """

    width: int
    height: int
    pixels: int


@dataclass(frozen=True, slots=True, eq=False)
class Undecoded:
    """A picture of which the header is read, and held against the limits."""

    header: Header
    _data: bytes
    _name: str
    _opened: Opened
    _further: Channels | None

    def decode(self, enough: Callable[[int, int], tuple[int, int]] | None = None) -> DecodedImage:
        """Decode it, as :func:`decode` says; once, since it may hold on to what it read."""
        with quiet(), _only_ours(self._name, self._data):
            filled = None if enough is None else self._opened.reduce(*enough(self._opened.width, self._opened.height))
            rgb = self._opened.load()
            all_channels = self._further.load() if self._further else ()
        # Of other formats the size is known for certain only now.
        width, height = (self._opened.width, self._opened.height) if self._name == "JPEG" else rgb.size
        return DecodedImage(rgb, width, height, self._name, all_channels, filled)


def pixels_to_open(size: int) -> int:
    """Return how much room ``read_header`` takes for a file of ``size`` bytes, in pixels of 16 bytes.

    Metadata is taken apart before any pixel is: 4 copies of the file, measured.
    """
    return size // 4


def read_header(data: bytes, limits: DecodeLimits, channels: int = 3) -> Header:
    """Read no more of a picture than tells what decoding it will cost; raises what ``decode`` raises."""
    _check("bytes", len(data), limits.max_bytes)
    name, data = _recognise(data)
    if name == "WEBP" and channels in _SHOWN and (size := webp_size(data)):  # Pillow would make room for the canvas
        _check_size(size, limits)
        return Header(*size, pixels_with_rows(*size))
    return _opened(data, name, limits, channels).header


def open_picture(data: bytes, limits: DecodeLimits, channels: int = 3) -> Undecoded:
    """Read the header of a picture that is about to be decoded; arguments and errors are those of ``decode``."""
    _check("bytes", len(data), limits.max_bytes)
    name, data = _recognise(data)
    return _opened(data, name, limits, channels)


def _opened(data: bytes, name: str, limits: DecodeLimits, channels: int) -> Undecoded:
    with quiet():
        opened = _open(data, name, limits)
        further = _open_channels(data, name, limits, channels, opened)
    header = Header(opened.width, opened.height, opened.pixels + (further.pixels if further else 0))
    return Undecoded(header, data, name, opened, further)


def decode(
    data: bytes, limits: DecodeLimits, channels: int = 3, enough: Callable[[int, int], tuple[int, int]] | None = None
) -> DecodedImage:
    """Decode a picture, apply its orientation, and convert it to RGB; keep its channels where a model takes others.

    A JPEG is decoded in full unless it is said what is enough: libjpeg does so at a half, a quarter or an eighth of
    its size for less, and classes come out a little more or less probable, see docs/performance.md.

    Args:
        data: the file. Of an animation the first frame is read, of a multi-page file the first full picture.
        limits: checked from the headers.
        channels: of the model: 3 for colours and 1 for grey, which any picture has; else it must have so many.
        enough: given width and height of the upright picture, how many pixels of both are needed at least; all if None.

    Raises:
        InvalidImage: not a picture of a known format, a broken or truncated one, a kind that is not read, or one of
            other channels.
        ImageTooLarge: over a limit.

    Example:
        >>> image = decode(path.read_bytes(), DecodeLimits(20_000_000, 50_000_000, 100))
        >>> image.width, image.height
        (640, 480)
    """
    return open_picture(data, limits, channels).decode(enough)


def _open_channels(data: bytes, name: str, limits: DecodeLimits, count: int, opened: Opened) -> Channels | None:
    """Find the channels of a picture that is opened; None where its colours are all that is asked for."""
    if count in _SHOWN:
        return None
    with _only_ours(name, data):
        further = open_channels(data, name, count, limits.max_frames)
    _check("pixels", opened.pixels + further.pixels, limits.max_pixels, ", counting all its channels")
    return further


def _check(what: str, value: int, limit: int, note: str = "") -> None:
    if value > limit:
        message = f"The picture has {value:,} {what}{note}; the limit is {limit:,}. Send a smaller picture."
        raise ImageTooLarge(message, limit=limit, unit=what)


def _recognise(data: bytes) -> tuple[str, bytes]:
    """Return the format, and the file as the format's library takes it for its own."""
    if not data:
        raise InvalidImage(f"The picture is empty (0 bytes). Send the bytes of a {READABLE} file.")
    name = sniff(data)
    if name is None:
        if kind := unread_kind(data):
            raise not_read(kind)
        if data[4:8] == b"ftyp":
            raise InvalidImage(f"The file ends after {len(data)} bytes, truncated. Check that the whole file was sent.")
        raise InvalidImage(f"The bytes are not a picture in a known format. Send a {READABLE} file.")
    if not FORMATS[name].is_there:
        if name == "HEIF" and (kind := unread_heif(data)):
            raise not_read(kind)
        raise InvalidImage(_MISSING[name])
    return name, branded(name, data)


_MISSING = {
    "AVIF": "AVIF pictures are not read here: the server's Pillow is built without AVIF. Convert it to JPEG or PNG.",
    "HEIF": (
        "HEIC pictures are not read here: the server has no library for them. Convert it to JPEG or PNG (phones: "
        "“most compatible”), or have pillow-heif installed beside the server: pip install pillow-heif."
    ),
}


@contextlib.contextmanager
def _only_ours(name: str, data: bytes) -> Iterator[None]:
    """Turn whatever Pillow raises into an error of the service."""
    try:
        yield
    except (ImageTooLarge, InvalidImage):
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        message = f"The {name} picture needs more memory than can be given to it. Send a smaller picture."
        raise ImageTooLarge(message) from error
    except Exception as error:
        if name == "HEIF" and (kind := unread_heif(data)):
            raise not_read(kind) from error
        message = (
            f"The {name} picture is truncated or damaged. Check that the whole file was sent; "
            "opening it in an image editor and saving it anew may repair it."
        )
        raise InvalidImage(message) from error


def _open(data: bytes, name: str, limits: DecodeLimits) -> Opened:
    """Read the header only, and hold it against the limits."""
    check_parts(name, count_parts(name, data))
    if name == "WEBP" and (size := webp_size(data)):
        _check_size(size, limits)
    _check_frames(count_frames(name, data, limits.max_frames), limits)
    with _only_ours(name, data):
        opened = open_image(data, name, limits.max_frames)
    _check_size((opened.width, opened.height), limits)
    _check("pixels", opened.pixels, limits.max_pixels, ", counting its tiles, streams, rows and wide samples")
    _check_frames(opened.frames, limits)
    return opened


def _check_frames(frames: int, limits: DecodeLimits) -> None:
    if frames > limits.max_frames:
        message = f"The picture has more frames than the limit of {limits.max_frames:,}. Send the frame you mean alone."
        raise ImageTooLarge(message, limit=limits.max_frames, unit="frames")


def _check_size(size: tuple[int, int], limits: DecodeLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidImage(f"The picture states a size of {width} × {height} pixels. Send one with at least one pixel.")
    _check("pixels", width * height, limits.max_pixels, f" ({width} × {height})")
