"""A TIFF's directories: which of them is the picture, what its samples are, and whether it is a camera's raw file.

A TIFF holds any number of pictures, each described by a directory of tags. Pillow reads the first, whatever it is: the
thumbnail in front of a raw file, the transparency mask in front of a page. Nothing here decodes a pixel, and nothing
raises for broken directories: they count as absent, and whoever decodes finds out.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Directory", "Layout", "Tag", "count_parts", "find_directory", "is_raw", "starting_at"]


class Tag:
    """Numbers of the tags that are read here."""

    NEW_SUBFILE_TYPE = 254
    SUBFILE_TYPE = 255
    WIDTH = 256
    HEIGHT = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    MAKE = 271
    STRIP_OFFSETS = 273
    ORIENTATION = 274
    SAMPLES = 277
    ROWS_PER_STRIP = 278
    STRIP_LENGTHS = 279
    MIN_SAMPLE = 280
    MAX_SAMPLE = 281
    PLANAR = 284
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_LENGTHS = 325
    SUB_DIRECTORIES = 330
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    SIGNED_MIN_SAMPLE = 340
    SIGNED_MAX_SAMPLE = 341
    SUBSAMPLING = 530
    CFA_REPEAT = 33421
    CFA_PATTERN = 33422
    DNG_VERSION = 50706
    DNG_PRIVATE = 50740


_WANTED = np.array([number for name, number in vars(Tag).items() if name.isupper()])
_TYPES = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",  # of BigTIFF
}
# Whose absence does not change the pixels.
_SPARE = (Tag.MAKE, Tag.SUB_DIRECTORIES, Tag.CFA_REPEAT, Tag.CFA_PATTERN, Tag.DNG_VERSION, Tag.DNG_PRIVATE)
_MOST_VALUES = 1000  # of a tag that says something about each sample, or each picture below
_MOST_ENTRIES = 4096  # of a directory, far above what programs write: a thousand directories may share theirs
_MOST_REPEATED = 4  # times that a tag is said, on average

_MASK = 4  # the photometric interpretation of a transparency mask
_CFA, _LINEAR_RAW = 32803, 34892
# Of raw files alone: Sony, Epson, Samsung, Nikon, lossy DNG, Kodak (three), Pentax.
_RAW_COMPRESSIONS = {32767, 32769, 32770, 34713, 34892, 32867, 65000, 65024, 65535}
_RAW_STARTS = (b"CR\x02", b"IIII", b"MMMM")  # at byte 8: Canon's CR2, Phase One's IIQ


@dataclass(frozen=True, slots=True)
class Directory:
    """The tags of one picture in ``data``, of those in ``Tag``.

    Attributes:
        data: the whole file.
        offset: of the directory in it.
        order: of its bytes, as NumPy and ``struct`` write it: "<" or ">".
        entries: tag → (type, count, the bytes of the value or of its offset).
    """

    data: bytes = field(repr=False)
    offset: int
    order: str
    entries: dict[int, tuple[int, int, bytes]]

    def __contains__(self, tag: int) -> bool:
        return tag in self.entries

    def array(self, tag: int) -> NDArray[Any]:
        """Return the numbers of a tag; none where it is absent, of no known type, or points outside the file."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        dtype = np.dtype(self.order + _TYPES.get(kind, "u1"))
        if count * dtype.itemsize > len(value):
            start = int.from_bytes(value, "little" if self.order == "<" else "big")
            inside = start + count * dtype.itemsize <= len(self.data)
            # Not cut out: hundreds of directories may all point to the same megabytes.
            return np.frombuffer(self.data, dtype, count, start) if inside and kind in _TYPES else np.empty(0, dtype)
        return np.frombuffer(value, dtype, count if kind in _TYPES else 0)

    def values(self, tag: int) -> list[Any]:
        """Return the first numbers of a tag, as many as a sound file has there."""
        numbers: list[Any] = self.array(tag)[:_MOST_VALUES].tolist()
        return numbers

    def value(self, tag: int, default: int) -> int:
        """Return the first number of a tag, or ``default``; of a float nothing but its whole part."""
        found = self.array(tag)[:1].tolist()
        return int(found[0]) if found and math.isfinite(found[0]) else default

    @property
    def is_cut(self) -> bool:
        """Whether a tag that the pixels depend on points outside the file."""
        wanted = (
            tag for tag, (kind, count, _) in self.entries.items() if tag not in _SPARE and kind in _TYPES and count
        )
        return any(not self.array(tag).size for tag in wanted)

    @property
    def is_reduced(self) -> bool:
        """Whether it says that it is a smaller copy of another picture in the file."""
        if Tag.NEW_SUBFILE_TYPE in self:
            return bool(self.value(Tag.NEW_SUBFILE_TYPE, 0) & 1)
        return self.value(Tag.SUBFILE_TYPE, 0) == 2

    @property
    def is_mask(self) -> bool:
        """Whether it says which pixels of another picture are transparent."""
        return bool(self.value(Tag.NEW_SUBFILE_TYPE, 0) & 4) or self.value(Tag.PHOTOMETRIC, 0) == _MASK

    @property
    def is_raw(self) -> bool:
        """Whether it holds what a camera's sensor saw, or belongs to it."""
        return (
            self.value(Tag.PHOTOMETRIC, 0) in (_CFA, _LINEAR_RAW)
            or self.value(Tag.COMPRESSION, 0) in _RAW_COMPRESSIONS
            or any(tag in self for tag in (Tag.DNG_VERSION, Tag.DNG_PRIVATE, Tag.CFA_REPEAT, Tag.CFA_PATTERN))
        )

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.value(Tag.WIDTH, 0) * self.value(Tag.HEIGHT, 0)


def find_directory(data: bytes, limit: int) -> Directory | None:
    """Return the directory of the first full picture: neither a mask, nor a reduced copy of another.

    Looks at the pages in their order, then at what hangs below them. Where all are masks and copies, it is the largest
    copy, else the first mask. None where no directory can be read.

    Args:
        data: the file.
        limit: how many directories are looked at.
    """
    found = _all_directories(data, limit)
    full = next((each for each in found if not each.is_reduced and not each.is_mask), None)
    copies = (each for each in found if not each.is_mask)
    return full or max(copies, key=lambda each: each.pixels, default=None) or next(iter(found), None)


def is_raw(data: bytes, limit: int) -> bool:
    """Return whether a TIFF is a camera's raw file: DNG, NEF, CR2, ARW, PEF, ORF and others.

    Their first picture is a thumbnail or a preview; the tags, compressions and marks of raw files tell them.
    """
    found = _all_directories(data, limit)
    if data[8:12].startswith(_RAW_STARTS) or any(each.is_raw for each in found):
        return True
    # A camera's file with a thumbnail in front of something that is not called a picture.
    only_copies = bool(found) and all(each.is_reduced or each.is_mask for each in found)
    return only_copies and len(found) > 1 and any(Tag.MAKE in each for each in found)


def starting_at(directory: Directory) -> bytes:
    """Return the file with ``directory`` as its first."""
    data, big = directory.data, _is_big(directory.data)
    start = struct.pack(directory.order + ("Q" if big else "L"), directory.offset)
    place = 8 if big else 4
    if data[place : place + len(start)] == start:
        return data
    return data[:place] + start + data[place + len(start) :]


def count_parts(directory: Directory, layout: Layout) -> int:
    """Count what is read one by one: strips or tiles, as many as the size needs, or the values of a tag if more.

    Where many of them are the same bytes, a kilobyte that is read once more counts as one: each may be long, and give
    nothing.
    """
    width, height = max(0, layout.width), max(0, layout.height)
    if layout.tile:
        across, down = max(1, layout.tile[0]), max(1, layout.tile[1])
        pieces = -(-width // across) * -(-height // down)
    else:
        pieces = -(-height // max(1, directory.value(Tag.ROWS_PER_STRIP, height)))
    values = (
        count // (3 if tag == Tag.COLOUR_MAP else 1)
        for tag, (kind, count, _) in directory.entries.items()
        if kind in _TYPES and tag not in _SPARE
    )
    parts = max(pieces * (max(1, layout.samples) if layout.planar else 1), *values, 0)
    lengths = directory.array(Tag.TILE_LENGTHS if layout.tile else Tag.STRIP_LENGTHS)[:parts]
    size = len(directory.data)
    again = int(np.clip(lengths.astype(np.float64), 0, size).sum()) - size
    return max(parts, again // 1000)


def _is_big(data: bytes) -> bool:
    return 43 in data[2:4]


def _all_directories(data: bytes, limit: int) -> list[Directory]:
    """Return the pages and, behind them, what hangs below them, ``limit`` directories at most."""
    order, big = "<" if data[:2] == b"II" else ">", _is_big(data)
    place, size = (8, 8) if big else (4, 4)
    first = int.from_bytes(data[place : place + size], "little" if order == "<" else "big")
    seen: set[int] = set()
    pages = list(_chain(data, order, first, seen, limit))
    starts = (int(start) for page in pages for start in page.values(Tag.SUB_DIRECTORIES))
    below = [each for start in islice(starts, limit) for each in _chain(data, order, start, seen, limit)]
    return pages + below


def _chain(data: bytes, order: str, offset: int, seen: set[int], limit: int) -> Iterator[Directory]:
    big = _is_big(data)
    count_format, offset_format, width = ("Q", "Q", "8") if big else ("H", "L", "4")
    place = int(width)
    short, number = f"{order}u2", f"{order}u{width}"
    row = np.dtype([("tag", short), ("type", short), ("count", number), ("value", f"V{width}")])
    while offset and offset not in seen and len(seen) < limit:
        seen.add(offset)
        try:
            (count,) = struct.unpack_from(order + count_format, data, offset)
            start = offset + struct.calcsize(count_format)
            if count > _MOST_ENTRIES or start + count * row.itemsize + place > len(data):
                return  # cut: what it does not say any more may be what its samples are
            rows = np.frombuffer(data, row, count, start)
            rows = rows[np.isin(rows["tag"], _WANTED)]
            if len(rows) > _MOST_REPEATED * len(_WANTED):
                return
            entries = {int(tag): (int(kind), int(many), value.tobytes()) for tag, kind, many, value in rows}
            yield Directory(data, offset, order, entries)
            (offset,) = struct.unpack_from(order + offset_format, data, start + count * row.itemsize)
        except (struct.error, OverflowError, ValueError):
            return


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a picture lie in its file.

    Attributes:
        width: in pixels.
        height: in pixels.
        samples: of a pixel.
        bits: of a sample; 0 where its samples have several.
        form: "u" whole numbers, "i" signed ones, "f" floats, "" what is none of these.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 4 a mask, others.
        compression: 1 for none; others as TIFF numbers them.
        predictor: 1 for none, 2 differences, 3 differences of the bytes of floats.
        planar: whether each sample has a plane of its own.
        alpha: which sample is the alpha channel; None for none.
        guessed_alpha: whether that is a guess: the file has one sample too many and does not say what it is.
        premultiplied: whether colours are multiplied by it already.
        tile: (width, height) in pixels; None where the picture is in strips.
    """

    width: int
    height: int
    samples: int
    bits: int
    form: str
    photometric: int
    compression: int
    predictor: int
    planar: bool
    alpha: int | None
    guessed_alpha: bool
    premultiplied: bool
    tile: tuple[int, int] | None

    @classmethod
    def of(cls, directory: Directory) -> Layout:
        """Read the layout of a directory's picture; what it does not say has the value that TIFF gives it."""
        samples = directory.value(Tag.SAMPLES, 1)
        # Left out, though it must not be: as libtiff takes it.
        photometric = directory.value(Tag.PHOTOMETRIC, 2 if samples >= 3 else 1)
        bits = set(directory.values(Tag.BITS)) or {1}
        forms = set(directory.values(Tag.SAMPLE_FORMAT)) or {1}
        alpha, premultiplied = _alpha(directory.values(Tag.EXTRA_SAMPLES), samples, 3 if photometric == 2 else 1)
        tile = directory.value(Tag.TILE_WIDTH, 0), directory.value(Tag.TILE_HEIGHT, 0)
        return cls(
            width=directory.value(Tag.WIDTH, 0),
            height=directory.value(Tag.HEIGHT, 0),
            samples=samples,
            bits=int(next(iter(bits))) if len(bits) == 1 else 0,
            form={1: "u", 2: "i", 3: "f", 4: "u"}.get(next(iter(forms)), "") if len(forms) == 1 else "",
            photometric=photometric,
            compression=directory.value(Tag.COMPRESSION, 1),
            predictor=directory.value(Tag.PREDICTOR, 1),
            planar=directory.value(Tag.PLANAR, 1) == 2 and samples > 1,
            alpha=alpha,
            guessed_alpha=alpha is not None and Tag.EXTRA_SAMPLES not in directory,
            premultiplied=premultiplied,
            tile=tile if Tag.TILE_WIDTH in directory else None,
        )

    @property
    def colours(self) -> int:
        """How many samples are the colour: 3 of RGB, 1 of grey."""
        return 3 if self.photometric == 2 else 1

    @property
    def is_sound(self) -> bool:
        """Whether such pictures exist, whoever reads them."""
        return self.width > 0 and self.height > 0 and self.bits <= 64 and self.photometric in _COLOURS

    def describe(self) -> str:
        """Say in words what kind it is, as "3 × 24-bit floating-point samples, RGB, uncompressed"."""
        form = {"u": "", "i": "signed ", "f": "floating-point "}.get(self.form, "complex ")
        bits = f"{self.bits}-bit " if self.bits else "unequal "
        colour = _COLOURS.get(self.photometric, f"photometric interpretation {self.photometric}")
        packing = _COMPRESSIONS.get(self.compression, f"compression {self.compression}")
        return f"{self.samples} × {bits}{form}samples, {colour}, {packing}"


_COLOURS = {
    0: "grey",
    1: "grey",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    9: "Lab",
    10: "Lab",
    32844: "LogL",
    32845: "LogLuv",
}
_COMPRESSIONS = {
    1: "uncompressed",
    5: "LZW",
    6: "old JPEG",
    7: "JPEG",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}


def _alpha(extra: list[int], samples: int, colours: int) -> tuple[int | None, bool]:
    """Return which sample is alpha, and whether colours are multiplied by it.

    A single further sample of which nothing is said is taken for it, as most programs do; "unspecified" is said.
    """
    if not extra:
        return (colours, False) if samples == colours + 1 else (None, False)
    index = next((index for index, kind in enumerate(extra) if kind != 0), None)
    if index is None or colours + index >= samples:
        return None, False
    return colours + index, extra[index] == 1
