"""A file of a known format to a picture that is ready to be loaded: its size now, its upright RGB pixels on demand.

What Pillow makes of a file is taken as it is, but for the kinds that it reads wrongly: the wrong picture of a TIFF,
samples of more than 8 bits, a BMP whose alpha channel nobody filled in, a PNG's transparent colour of 16 bits.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImagePalette, TiffImagePlugin

from service.errors import ImageTooLarge, InvalidImage
from service.imaging.av1 import coded_pixels
from service.imaging.bmp_runs import TooManyRuns, read_runs
from service.imaging.formats import FORMATS, READABLE
from service.imaging.headers import MAX_PARTS
from service.imaging.heif import decoded_pixels
from service.imaging.modes import over_white, to_rgb
from service.imaging.tiff import Layout, Tag, count_parts, find_directory, is_raw, starting_at
from service.imaging.tiff_jpeg import first_stream, without
from service.imaging.tiff_samples import bytes_needed, can_read, read_samples
from service.imaging.unread import RAW, unread_jpeg

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.imaging.tiff import Directory

__all__ = [
    "BYTES_PER_PIXEL",
    "Box",
    "Opened",
    "check_parts",
    "not_read",
    "open_image",
    "orientation_of",
    "pixels_with_rows",
    "turned",
]

Box = tuple[float, float, float, float]
"""(left, top, right, bottom), in pixels."""

BYTES_PER_PIXEL = 16
"""How much room decoding takes for each of ``Opened.pixels`` at its height, at most."""

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
class Opened:
    """A picture of which the header is read.

    Attributes:
        width: upright, in pixels; that of the stored picture where the orientation stands behind the pixels.
        height: likewise.
        pixels: how many ``load`` makes room for, ``BYTES_PER_PIXEL`` for each at its height.
        frames: how many there are.
        load: returns the pixels, upright and in mode RGB.
        reduce: lets ``load`` return fewer pixels, where the format can, but so many columns and rows at least. Returns
            which of these the picture fills: the last ones of a JPEG may reach beyond it. None where all are returned.
    """

    width: int
    height: int
    pixels: int
    frames: int
    load: Callable[[], Image.Image]
    reduce: Callable[[int, int], Box | None] = lambda _columns, _rows: None


def pixels_with_rows(width: int, height: int, parts: int = 0) -> int:
    """Return how many pixels to make room for.

    Up to three pictures of 4 bytes a pixel are there at once, one of them perhaps turned by 90°. Each takes 8 bytes for
    every row besides, and masks and narrow rows are filled up: 48 together, measured where a row is one pixel.

    Args:
        width: in pixels.
        height: in pixels.
        parts: strips or tiles, of which Pillow and libtiff keep 400 bytes each.
    """
    return max(width * height, (12 * width * height + 48 * max(width, height) + 400 * parts) // BYTES_PER_PIXEL)


def check_parts(name: str, parts: int) -> None:
    """Raise ImageTooLarge where a picture in the format ``name`` has more than ``MAX_PARTS``."""
    limit = MAX_PARTS.get(name, 0)
    if parts > limit:
        way_out = _WITH_FEWER.get(name, "Save it anew, without metadata.")
        message = f"The {name} picture is made of more than {limit:,} parts. {way_out}"
        raise ImageTooLarge(message, limit=limit, unit="parts")


_WITH_FEWER = {
    "TIFF": "Save it anew, with larger strips or tiles.",
    "BMP": "Save it anew, uncompressed or as PNG.",
}


# Of files whose header says less: how many pixels are decoded.
_DECODED = {"AVIF": coded_pixels, "HEIF": decoded_pixels}


def not_read(kind: str) -> InvalidImage:
    """Return the error for a sound file of a kind that is not read, such as "a PDF document"."""
    if kind == RAW:
        return InvalidImage("A camera's raw file is not read. Export it as JPEG, PNG or TIFF, and send that.")
    return InvalidImage(f"The file is {kind}, which is not read. Send it as a {READABLE} file.")


def _rare(kind: str) -> InvalidImage:
    return InvalidImage(f"This kind of {kind} is not read. Convert it to PNG or JPEG, or to grey or RGB of 8 bits.")


def open_image(data: bytes, name: str, max_frames: int) -> Opened:
    """Read the header of a file in the format ``name``.

    Raises:
        InvalidImage: it is sound, and of a kind that is not read.
        Exception: whatever Pillow raises for a file that is broken.
    """
    if name == "TIFF":
        return _open_tiff(data, max_frames)
    if name == "JPEG" and (kind := unread_jpeg(data)):
        raise not_read(kind)
    if name == "PNG" and data[12:16] == b"CgBI":
        raise not_read("a picture out of an iOS app, no PNG that others read")
    try:
        image = FORMATS[name].open(io.BytesIO(data))
    except OSError as error:
        if str(error).startswith("Unsupported BMP"):
            raise _rare(f"BMP ({str(error).removeprefix('Unsupported BMP ')})") from error
        raise
    orientation = orientation_of(image) if name in ("JPEG", "AVIF") else 1
    width, height = image.size[::-1] if orientation >= 5 else image.size
    # The pixels that are decoded take half the room, and only those that the header states are converted to RGB.
    decoded = _DECODED[name](data) // 2 if name in _DECODED else 0
    frames = int(getattr(image, "n_frames", 1)) if name in ("PNG", "WEBP", "AVIF", "HEIF") else 1

    def reduce(columns: int, rows: int) -> Box | None:
        reduced = image.draft(None, (rows, columns) if orientation >= 5 else (columns, rows))
        return None if reduced is None else _upright(reduced[1], image.size, orientation)

    pixels = max(pixels_with_rows(width, height), decoded)
    opened = Opened(width, height, pixels, frames, lambda: _load(image, name, data))
    return replace(opened, reduce=reduce) if name == "JPEG" else opened


def _load(image: ImageFile.ImageFile, name: str, data: bytes) -> Image.Image:
    if name == "PNG" and (keyed := _sixteen_bit_key(image)):
        rgb = _load_keyed(image, data, keyed)
    else:
        if name == "BMP" and image.tile[0].codec_name == "bmp_rle":
            _unfold_runs(image, data)
        image.load()
        if name == "PNG":
            _widen_key(image, data)
        rgb = to_rgb(_with_meant_alpha(image) if name == "BMP" else image)
    # A PNG may carry its EXIF behind the pixels. GIF and BMP have none, and libheif turns what it decodes.
    return turned(rgb, orientation_of(image) if name in ("JPEG", "PNG", "WEBP", "AVIF") else 1)


def turned(rgb: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture upright by its EXIF orientation."""
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _upright(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Return where a box (left, top, right, bottom) in a stored picture of ``size`` is in the upright one."""
    (left, top, right, bottom), (width, height) = box, size
    across, down = (left, right), (top, bottom)
    back, up = (width - right, width - left), (height - bottom, height - top)
    turned_axes = {
        2: (back, down),
        3: (back, up),
        4: (across, up),
        5: (down, across),
        6: (up, across),
        7: (up, back),
        8: (down, back),
    }
    (left, right), (top, bottom) = turned_axes.get(orientation, (across, down))
    return left, top, right, bottom


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - broken metadata is no reason to refuse a picture
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def _with_meant_alpha(image: Image.Image) -> Image.Image:
    """Return the picture without its alpha channel if that is zero everywhere: screenshots leave it unset."""
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")
    return image


def _unfold_runs(image: ImageFile.ImageFile, data: bytes) -> None:
    """Have Pillow load the colour numbers of a bitmap of runs as if they were stored.

    Raises:
        ImageTooLarge: there are too many runs.
    """
    tile, (width, height) = image.tile[0], image.size
    args, bits = tile.args, data[28]
    if image.mode not in ("P", "L", "1") or bits not in (4, 8) or not isinstance(args, tuple):
        raise _rare(f"BMP (runs of {bits}-bit colours)")
    try:
        numbers = read_runs(memoryview(data)[tile.offset :], width, height, bits, MAX_PARTS["BMP"])
    except TooManyRuns:
        check_parts("BMP", MAX_PARTS["BMP"] + 1)
        raise
    rawmode = "P" if image.mode == "P" else "L"
    image.fp = io.BytesIO(numbers)
    image._mode = rawmode
    image.tile = [ImageFile._Tile("raw", (0, 0, width, height), 0, (rawmode, 0, args[-1]))]


# -- PNG --------------------------------------------------------------------------------------------------------------


def _widen_key(image: ImageFile.ImageFile, data: bytes) -> None:
    """Scale the transparent grey of a PNG of 2 or 4 bits as Pillow scales its pixels."""
    bits, key = data[24], image.info.get("transparency")
    if image.mode == "L" and bits in (2, 4) and isinstance(key, int):
        image.info["transparency"] = key * (255 // (2**bits - 1))


def _sixteen_bit_key(image: ImageFile.ImageFile) -> tuple[int, ...] | None:
    """Return the one transparent colour of a PNG of 16 bits, which Pillow loads before the pixels or not at all."""
    key, rawmode = image.info.get("transparency"), image.tile[0].args if image.tile else None
    if rawmode == "RGB;16B" and isinstance(key, tuple):
        return key
    return (key,) if rawmode == "I;16B" and isinstance(key, int) else None


def _load_keyed(image: ImageFile.ImageFile, data: bytes, key: tuple[int, ...]) -> Image.Image:
    """Load a PNG of 16 bits whose pixels of the colour ``key`` are transparent: equal in all 16 bits."""
    if len(key) == 1:
        image.load()
        hidden = np.asarray(image) == key[0]
    else:
        low = FORMATS["PNG"].open(io.BytesIO(data))
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        low.load()  # the lower byte of each sample, as if it were the higher one
        image.load()
        parts = zip(np.moveaxis(np.asarray(image), -1, 0), np.moveaxis(np.asarray(low), -1, 0), key, strict=True)
        hidden = np.logical_and.reduce([(high == value >> 8) & (low == value & 255) for high, low, value in parts])
    image.info.pop("transparency", None)
    return over_white(to_rgb(image), hidden)


# -- TIFF -------------------------------------------------------------------------------------------------------------


_JPEG = (6, 7)
_SUBSAMPLINGS = ((2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4))  # that libtiff turns to RGB
_COMMON_COMPRESSIONS = (1, 2, 3, 4, 5, *_JPEG, 8, 32773, 32946, 34925, 50000)


def _open_tiff(data: bytes, max_frames: int) -> Opened:
    """Open the first full picture of a TIFF, whoever reads it."""
    if is_raw(data, max_frames):
        raise not_read(RAW)
    directory = find_directory(data, max_frames)
    if directory is None:  # Pillow would take what is left of a cut one
        raise ValueError("no directory of the TIFF is whole")
    if directory.is_cut:
        raise ValueError("a tag of the TIFF lies behind the end of the file")
    layout = Layout.of(directory)
    check_parts("TIFF", count_parts(directory, layout))
    if layout.compression == 7 and not layout.planar and layout.samples == 3:
        directory = _as_streamed(directory, layout)
    # Without that tag Pillow takes the smallest number for white.
    if can_read(layout) and (_is_misread(layout) or Tag.PHOTOMETRIC not in directory):
        return _as_samples(directory, layout)
    if (layout.bits > 8 and layout.compression in _JPEG) or layout.samples > TiffImagePlugin.MAX_SAMPLESPERPIXEL:
        raise _rare(f"TIFF ({layout.describe()})")
    try:
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(starting_at(directory)))
    except SyntaxError as error:
        if can_read(layout):
            return _as_samples(directory, layout)
        if layout.is_sound:
            raise _rare(f"TIFF ({layout.describe()})") from error
        raise
    _correct(image, directory, layout)
    return _as_pillow_does(image, layout, count_parts(directory, layout))


def _as_streamed(directory: Directory, layout: Layout) -> Directory:
    """Leave it to the JPEGs in a TIFF how their Cb and Cr are shared, where its tags say otherwise.

    Raises:
        InvalidImage: they have other colours than the tags say: which is right, nobody knows.
    """
    stream, stated = first_stream(directory), {2: "RGB", 6: "YCbCr"}.get(layout.photometric)
    if stream.colours and stated and stream.colours != stated:
        raise _rare(f"TIFF (its tags say {stated}, and the JPEG in it {stream.colours})")
    if layout.photometric == 6 and stream.subsampling and Tag.SUBSAMPLING in directory:
        return without(directory, Tag.SUBSAMPLING)  # libtiff looks into the stream
    return directory


def _correct(image: TiffImagePlugin.TiffImageFile, directory: Directory, layout: Layout) -> None:
    """Change how Pillow will load it: a colour map of 8 bits, and YCbCr whose pixels share Cb and Cr.

    Raises:
        InvalidImage: they are shared in a way that libtiff does not read.
    """
    if image.mode in ("P", "PA"):
        _keep_colour_map(image, directory)
    if layout.photometric == 6 and layout.compression == 1 and (factors := _subsampling(directory, layout)) != (1, 1):
        if layout.planar or factors not in _SUBSAMPLINGS:
            raise _rare(f"TIFF ({layout.describe()}, subsampled {factors[0]} × {factors[1]})")
        _give_to_libtiff(image)


def _keep_colour_map(image: TiffImagePlugin.TiffImageFile, directory: Directory) -> None:
    """Take a colour map of 0 to 255, as older programs write it, as it is: Pillow divides all by 256."""
    colours = directory.array(Tag.COLOUR_MAP)
    if colours.size and colours.max() <= 255:
        image.palette = ImagePalette.raw("RGB;L", colours.astype(np.uint8).tobytes())


def _subsampling(directory: Directory, layout: Layout) -> tuple[int, int]:
    """Return how many pixels across and down share a Cb and a Cr; unsaid it is 2 × 2, unless all have their own."""
    across, down = [*directory.values(Tag.SUBSAMPLING), 0, 0][:2]
    if across and down:
        return int(across), int(down)
    lengths = directory.values(Tag.TILE_LENGTHS if layout.tile else Tag.STRIP_LENGTHS)
    return (1, 1) if not lengths or sum(lengths) >= 3 * layout.width * layout.height else (2, 2)


def _give_to_libtiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Have libtiff read what Pillow would read itself, as it has it read YCbCr of any other compression."""
    image._mode = "RGB"
    image.use_load_libtiff = True
    image.tile = [ImageFile._Tile("libtiff", (0, 0, *image.size), 0, ("RGBX", False, image.tag_v2.offset))]


def _is_misread(layout: Layout) -> bool:
    """Return whether Pillow may read it otherwise than it is meant: wide, signed, in planes, inverted with alpha."""
    many = layout.samples > TiffImagePlugin.MAX_SAMPLESPERPIXEL
    inverted = layout.photometric == 0 and layout.samples > 1
    return layout.bits > 8 or layout.form != "u" or layout.planar or inverted or many


def _as_pillow_does(image: TiffImagePlugin.TiffImageFile, layout: Layout, parts: int) -> Opened:
    def load() -> Image.Image:
        try:
            image.load()  # Pillow itself turns a TIFF upright
        except OSError as error:
            if layout.compression not in _COMMON_COMPRESSIONS:  # libtiff is built without it
                raise _rare(f"TIFF ({layout.describe()})") from error
            raise
        return to_rgb(_with_meant_alpha(image) if layout.guessed_alpha else image)

    tags = image.tag_v2
    tile = int(tags.get(TiffImagePlugin.TILEWIDTH, 1)), int(tags.get(TiffImagePlugin.TILELENGTH, 1))
    width, height = image.size
    # libtiff makes room for a tile however small the picture is.
    return Opened(width, height, max(pixels_with_rows(width, height, parts), math.prod(tile)), 1, load)


def _as_samples(directory: Directory, layout: Layout) -> Opened:
    orientation = directory.value(Tag.ORIENTATION, 1)
    width, height = layout.width, layout.height
    besides = 48 * max(width, height) + 400 * count_parts(directory, layout)  # as in ``pixels_with_rows``
    pixels = max(width * height, -(-(bytes_needed(layout) + besides) // BYTES_PER_PIXEL))
    if orientation in _UPRIGHT and orientation >= 5:
        width, height = height, width
    return Opened(width, height, pixels, 1, lambda: turned(read_samples(directory, layout), orientation))
