"""The samples of TIFFs that Pillow reads wrongly or not at all: 9 to 64 bits, signed, floats, inverted, in planes.

libtiff unpacks strips and tiles of any compression, and Pillow hands on what it unpacked only for the kinds it knows.
So the file is given to it with a directory that calls the bytes of the samples a grey picture of 8 bits; what the bytes
mean is worked out here.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from service.imaging.levels import Span, span_of, stated_span, to_levels
from service.imaging.tiff import Layout, Tag

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from service.imaging.tiff import Directory

__all__ = ["bytes_needed", "can_read", "can_read_channels", "channel_bytes", "read_channels", "read_samples"]

_PACKED = (1, 5, 8, 32773, 32946, 34925, 50000)  # compressions that give back bytes: none, LZW, deflate, PackBits …
_FLOATS = (16, 32, 64)
_WHOLE = (8, 16, 32, 64)
_BAND_SAMPLES = 250_000
_MOST_SAMPLES = 64


def can_read(layout: Layout) -> bool:
    """Return whether ``read_samples`` knows this kind: grey or RGB, with an alpha channel or without."""
    return (
        _knows_numbers(layout)
        and layout.photometric in (0, 1, 2, 4)
        and layout.colours <= layout.samples <= _MOST_SAMPLES
        and layout.compression in _PACKED
        and (layout.tile is None or layout.tile[0] * layout.bits % 8 == 0)
    )


def can_read_channels(layout: Layout) -> bool:
    """Return whether ``read_channels`` knows this kind: unsigned numbers of up to 16 bits, 0 for black."""
    return can_read(layout) and layout.form == "u" and layout.bits <= 16 and layout.photometric in (1, 2)


def _knows_numbers(layout: Layout) -> bool:
    """Return whether the numbers can be read: floats, whole ones of 8, 16, 32, 64 bits, unsigned ones of up to 16."""
    bits, form, whole = layout.bits, layout.form, layout.bits in _WHOLE
    known = {"f": bits in _FLOATS, "i": whole, "u": whole or 0 < bits < 16}.get(form, False)
    return known and {1: True, 2: whole, 3: form == "f"}.get(layout.predictor, False)


def bytes_needed(layout: Layout) -> int:
    """Return how many bytes ``read_samples`` makes room for at its height."""
    row, pixels = _row(layout), layout.width * layout.height
    unpacked = len(_planes(layout)) * layout.height * row.length
    at_once = row.piece_length * layout.tile[1] if layout.tile else unpacked  # by libtiff: there may be a single strip
    return unpacked + max(at_once, pixels * (10 if layout.colours == 3 else 6))


def channel_bytes(layout: Layout) -> int:
    """Return how many bytes ``read_channels`` makes room for at its height."""
    row, pixels = _row(layout), layout.width * layout.height
    unpacked = (layout.samples if layout.planar else 1) * layout.height * row.length
    at_once = row.piece_length * layout.tile[1] if layout.tile else unpacked
    return unpacked + max(at_once, 2 * layout.samples * pixels)


def read_channels(directory: Directory, layout: Layout) -> list[Image.Image]:
    """Return every sample as a picture in mode L, scaled by the range of its type, as it is stored: not turned upright.

    Raises:
        ValueError: a strip or a tile does not lie in the file as a whole.
        OSError: libtiff cannot unpack one.
    """
    pieces = _Pieces.of(directory, layout)
    planes = [_unpack(directory, layout, pieces, plane) for plane in range(layout.samples if layout.planar else 1)]
    span = Span(0.0, 2.0**layout.bits - 1)
    levels = np.empty((layout.samples, layout.height, layout.width), np.uint8)
    for rows, values in _Picture(directory, layout, planes).bands(range(layout.samples)):
        levels[:, rows] = np.moveaxis(to_levels(values, span), -1, 0)
    return [Image.fromarray(channel) for channel in levels]


def read_samples(directory: Directory, layout: Layout) -> Image.Image:
    """Return the picture in mode RGB, over white where it is transparent, as it is stored: not turned upright.

    Black and white are what the file states as its smallest and greatest sample, else what ``levels`` makes of them.

    Raises:
        ValueError: a strip or a tile does not lie in the file as a whole.
        OSError: libtiff cannot unpack one.
    """
    pieces = _Pieces.of(directory, layout)
    planes = [_unpack(directory, layout, pieces, plane) for plane in _planes(layout)]
    picture = _Picture(directory, layout, planes)
    colour, alpha = picture.colour_span(), picture.alpha_span()
    levels = np.empty((layout.height, layout.width, layout.colours), np.uint8)
    for rows, values in picture.bands():
        shown = to_levels(values[..., : layout.colours], colour)
        if layout.photometric == 0:
            np.subtract(255, shown, out=shown)
        if alpha is not None:
            shown = _over_white(shown, to_levels(values[..., layout.colours :], alpha), layout)
        levels[rows] = shown
    return Image.fromarray(levels) if layout.colours == 3 else Image.fromarray(levels[..., 0]).convert("RGB")


def _over_white(colours: NDArray[np.uint8], alpha: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    shown, opacity = colours.astype(np.uint32), alpha.astype(np.uint32)
    if not layout.premultiplied:
        shown = (shown * opacity + 127) // 255
    levels: NDArray[np.uint8] = np.minimum(shown + 255 - opacity, 255).astype(np.uint8)
    return levels


def _planes(layout: Layout) -> list[int]:
    """Return which planes are read: of a picture in planes those that show, else the one there is."""
    if not layout.planar:
        return [0]
    return [*range(layout.colours), *([layout.alpha] if layout.alpha is not None else [])]


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a plane: ``pieces`` tiles of ``pixels`` pixels, each of ``samples`` samples; ``length`` bytes in all."""

    pieces: int
    pixels: int
    samples: int
    piece_length: int

    @property
    def length(self) -> int:
        return self.pieces * self.piece_length


def _row(layout: Layout) -> _Row:
    samples = 1 if layout.planar else layout.samples
    pixels = layout.tile[0] if layout.tile else layout.width
    pieces = -(-layout.width // pixels) if layout.tile else 1
    return _Row(pieces, pixels, samples, -(-pixels * samples * layout.bits // 8))


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Where the strips or tiles of all planes lie in the file.

    Attributes:
        rows: of a strip or tile; the last strip may have fewer.
        count: how many a plane has.
        offsets: of each, in bytes.
        lengths: of each, in bytes.
    """

    rows: int
    count: int
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, directory: Directory, layout: Layout) -> _Pieces:
        """Find them, and check all against the file as it was sent: libtiff gets one with a directory behind it.

        Raises:
            ValueError: one is missing, ends behind the file, or is too short for its rows.
        """
        tiled, row, size = layout.tile is not None, _row(layout), len(directory.data)
        stated_rows = layout.tile[1] if layout.tile else directory.value(Tag.ROWS_PER_STRIP, layout.height)
        rows = stated_rows if tiled else min(stated_rows, layout.height)
        count = -(-layout.height // rows) * row.pieces
        total = count * (layout.samples if layout.planar else 1)
        offsets = directory.array(Tag.TILE_OFFSETS if tiled else Tag.STRIP_OFFSETS)[:total].astype(np.int64)
        if len(offsets) < total or offsets.min() < 0 or offsets.max() >= size:
            raise ValueError("a strip of the TIFF is missing")
        lengths = directory.array(Tag.TILE_LENGTHS if tiled else Tag.STRIP_LENGTHS)[:total].astype(np.int64)
        if not lengths.any():
            lengths = _lengths_between(offsets, size)
        if len(lengths) < total or lengths.min() < 0 or (lengths > size - offsets).any():
            raise ValueError("a strip of the TIFF ends behind the file")
        if layout.compression == 1:
            needed = np.full(count, rows * row.piece_length)
            if not tiled:
                needed[-1] = (layout.height - rows * (count - 1)) * row.piece_length
            if (lengths < np.tile(needed, total // count)).any():
                raise ValueError("a strip of the TIFF is too short for its rows")
        return cls(rows, count, offsets, lengths)


def _lengths_between(offsets: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the lengths of pieces that do not say it: each may reach to the next one, the last to the file's end."""
    ends = np.append(np.unique(offsets), size)
    return ends[np.searchsorted(ends, offsets, side="right")] - offsets


def _unpack(directory: Directory, layout: Layout, pieces: _Pieces, plane: int) -> Image.Image:
    """Return the bytes of a plane as a grey picture, a row of the plane in each of its rows."""
    row = _row(layout)
    tags: dict[int, Any] = {
        Tag.WIDTH: [row.length],
        Tag.HEIGHT: [layout.height],
        Tag.BITS: [8],
        Tag.COMPRESSION: [layout.compression],
        Tag.PHOTOMETRIC: [1],
        Tag.FILL_ORDER: [directory.value(Tag.FILL_ORDER, 1)],
        Tag.SAMPLES: [1],
    }
    if layout.tile:
        tags |= {Tag.TILE_WIDTH: [row.piece_length], Tag.TILE_HEIGHT: [pieces.rows]}
        places, lengths = Tag.TILE_OFFSETS, Tag.TILE_LENGTHS
    else:
        tags |= {Tag.ROWS_PER_STRIP: [pieces.rows]}
        places, lengths = Tag.STRIP_OFFSETS, Tag.STRIP_LENGTHS
    own = slice(plane * pieces.count, (plane + 1) * pieces.count)
    tags |= {places: pieces.offsets[own], lengths: pieces.lengths[own]}
    image = _Bytes(io.BytesIO(_with_directory(directory, tags)))
    image.load()
    return image


class _Bytes(TiffImagePlugin.TiffImageFile):
    """Has no limit of its own: its pixels are bytes, and were held against ours."""

    def load_prepare(self) -> None:
        """As of any other format."""
        ImageFile.ImageFile.load_prepare(self)


def _with_directory(directory: Directory, tags: dict[int, Any]) -> bytes:
    """Return the file with a directory of these tags, all of them long numbers, behind its end as its only one.

    Raises:
        ValueError: a number does not fit into 32 bits.
    """
    order, data = directory.order, directory.data
    end = len(data) + len(data) % 2
    behind = end + 2 + 12 * len(tags) + 4
    rows, numbers = [], b""
    for tag, values in sorted(tags.items()):
        numbers_of = np.asarray(values)
        if numbers_of.size and not 0 <= int(numbers_of.min()) <= int(numbers_of.max()) < 2**32:
            raise ValueError("a tag of the TIFF is out of range")
        packed = numbers_of.astype(f"{order}u4").tobytes()
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack(f"{order}L", behind + len(numbers))
        rows.append(struct.pack(f"{order}HHL", tag, 4, len(values)) + value)
        numbers += packed if len(packed) > 4 else b""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", end)
    listed = struct.pack(f"{order}H", len(rows)) + b"".join(rows) + bytes(4)
    return b"".join([head, data[8:], bytes(end - len(data)), listed, numbers])


@dataclass(frozen=True, slots=True)
class _Picture:
    """The bytes of a picture's planes, and how to read numbers out of them."""

    directory: Directory
    layout: Layout
    planes: list[Image.Image]

    def bands(self, samples: Sequence[int] | None = None) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield some rows at a time, (n, width, samples): the colours, then the alpha channel, if none are named."""
        layout = self.layout
        shown = samples or [*range(layout.colours), *([layout.alpha] if layout.alpha is not None else [])]
        height = max(1, _BAND_SAMPLES // (layout.width * layout.samples))
        for top in range(0, layout.height, height):
            rows = slice(top, min(top + height, layout.height))
            parts = [self._numbers(plane, rows) for plane in self.planes]
            yield rows, np.concatenate(parts, axis=-1) if layout.planar else parts[0][..., shown]

    def _numbers(self, plane: Image.Image, rows: slice) -> NDArray[Any]:
        """Return the samples of some rows, (n, width, samples)."""
        row, layout = _row(self.layout), self.layout
        packed = np.asarray(plane.crop((0, rows.start, plane.width, rows.stop))).reshape(-1, row.piece_length)
        if layout.predictor == 3:
            numbers = _undo_byte_differences(packed, row.samples, layout.bits // 8)
        elif layout.bits not in _WHOLE:
            numbers = _unpack_bits(packed, layout.bits, row.pixels * row.samples)
        else:
            numbers = packed.view(f"{self.directory.order}{layout.form}{layout.bits // 8}")
            if layout.predictor == 2:
                numbers = _undo_differences(numbers, row.samples)
        shape = rows.stop - rows.start, row.pieces * row.pixels, row.samples
        return numbers.reshape(shape)[:, : layout.width]

    def colour_span(self) -> Span:
        """Return what is black and white."""
        layout = self.layout
        stated = self._stated(slice(None, layout.colours)) or stated_span(layout.form, layout.bits)
        return stated or span_of(layout.form, layout.bits, (band[..., : layout.colours] for _, band in self.bands()))

    def alpha_span(self) -> Span | None:
        """Return what is transparent and opaque; None without an alpha channel, or with a guessed one of nothing."""
        layout = self.layout
        if layout.alpha is None:
            return None
        if layout.guessed_alpha and not any(band[..., layout.colours :].any() for _, band in self.bands()):
            return None
        stated = stated_span(layout.form, layout.bits)
        found = stated or span_of(layout.form, layout.bits, (band[..., layout.colours :] for _, band in self.bands()))
        return Span(0.0, found.white)

    def _stated(self, colours: slice) -> Span | None:
        """Return the smallest and the greatest sample that the file states, of more than 8 bits."""
        directory, layout = self.directory, self.layout
        if layout.bits <= 8:
            return None  # they are statistics there, and nobody scales by them
        low = directory.values(Tag.SIGNED_MIN_SAMPLE)[colours] or directory.values(Tag.MIN_SAMPLE)[colours]
        high = directory.values(Tag.SIGNED_MAX_SAMPLE)[colours] or directory.values(Tag.MAX_SAMPLE)[colours]
        if not high or not np.isfinite([*low, *high]).all():
            return None
        black, white = float(min(low, default=0)), float(max(high))
        return Span(black, white) if black < white else None


def _undo_differences(numbers: NDArray[Any], samples: int) -> NDArray[Any]:
    """Undo predictor 2: each number is stored less the one of the pixel before, whatever the bits mean."""
    native = numbers.dtype.newbyteorder("=")
    whole = np.dtype(f"u{native.itemsize}")
    bits = numbers.astype(native).view(whole).reshape(len(numbers), -1, samples)
    summed: NDArray[Any] = np.cumsum(bits, axis=1, dtype=whole).view(native)
    return summed


def _undo_byte_differences(packed: NDArray[np.uint8], samples: int, size: int) -> NDArray[Any]:
    """Undo predictor 3: a row has first the highest bytes of its floats, then the next …, each less the one before."""
    rows = len(packed)
    summed = np.cumsum(packed.reshape(rows, -1, samples), axis=1, dtype=np.uint8)
    sorted_bytes = summed.reshape(rows, size, -1).transpose(0, 2, 1)
    floats: NDArray[Any] = np.ascontiguousarray(sorted_bytes).view(f">f{size}")
    return floats


def _unpack_bits(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint32]:
    """Return ``count`` numbers of so many bits from each row, the highest bit first, (n, count)."""
    digits = np.unpackbits(packed, axis=1, count=count * bits).reshape(len(packed), count, bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint32)
    numbers: NDArray[np.uint32] = digits @ weights
    return numbers
