"""Writers of files that Pillow does not write: TIFFs of any layout, PNGs of 16 bits with a key, BMPs with alpha."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.hostile.bombs import chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

SHORT, LONG, BYTE, TEXT, DOUBLE = 3, 4, 1, 2, 12
_CODES = {BYTE: "u1", TEXT: "u1", SHORT: "u2", LONG: "u4", DOUBLE: "f8"}

NEW_SUBFILE, SUBFILE, MAKE, MIN_SAMPLE, MAX_SAMPLE, EXTRA, DNG_VERSION = 254, 255, 271, 280, 281, 338, 50706
SIGNED_MIN, SIGNED_MAX = 340, 341
ORIENTATION = 274

Values = tuple[int, "Sequence[float]"]  # a type, and the numbers


@dataclass
class Page:
    """A directory: its tags, its pixels in one or several pieces, and the pages below it."""

    tags: dict[int, Values]
    pieces: list[bytes]
    tiled: bool = False
    below: list[Page] = field(default_factory=list)


def page(
    samples: NDArray[Any],
    photometric: int = 1,
    *,
    order: str = "<",
    planar: bool = False,
    tile: int | None = None,
    compression: int = 1,
    below: Sequence[Page] = (),
    **tags: Values,
) -> Page:
    """A page of ``samples``, (h, w) or (h, w, samples), of their own type; ``tags`` by number: ``t254=(LONG, [1])``."""
    data = samples if samples.ndim == 3 else samples[..., None]
    height, width, count = data.shape
    form = {"u": 1, "i": 2, "f": 3}[data.dtype.kind]
    planes = np.moveaxis(data, -1, 0)[..., None] if planar else data[None]
    pack: Callable[[bytes], bytes] = zlib.compress if compression == 8 else bytes
    wide = planes.astype(order + data.dtype.str[1:])
    pieces = [pack(part.tobytes()) for plane in wide for part in (_tiles(plane, tile) if tile else [plane])]
    found = _described(width, height, [8 * data.itemsize] * count, photometric, compression)
    found |= {339: (SHORT, [form] * count), 284: (SHORT, [1 + planar])}
    found |= {322: (LONG, [tile]), 323: (LONG, [tile])} if tile else {278: (LONG, [height])}
    return Page(found | _numbered(tags), pieces, tile is not None, list(below))


def packed(numbers: NDArray[Any], bits: int, photometric: int = 1, **tags: Values) -> Page:
    """A grey page, or one of ``numbers.shape[2]`` samples, of any number of bits, rows padded to whole bytes."""
    height, width = numbers.shape[:2]
    samples = numbers.reshape(height, -1)
    digits = (samples[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(height, -1).astype(np.uint8)
    found = _described(width, height, [bits] * (samples.shape[1] // width), photometric, 1) | {278: (LONG, [height])}
    return Page(found | _numbered(tags), [np.packbits(digits, axis=1).tobytes()])


def _described(width: int, height: int, bits: list[int], photometric: int, compression: int) -> dict[int, Values]:
    return {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, bits),
        259: (SHORT, [compression]),
        262: (SHORT, [photometric]),
        277: (SHORT, [len(bits)]),
    }


def _numbered(tags: dict[str, Values]) -> dict[int, Values]:
    return {int(name.removeprefix("t")): values for name, values in tags.items()}


def _tiles(plane: NDArray[Any], side: int) -> Iterable[NDArray[Any]]:
    height, width = plane.shape[:2]
    for top in range(0, height, side):
        for left in range(0, width, side):
            tile = np.zeros((side, side, plane.shape[2]), plane.dtype)
            part = plane[top : top + side, left : left + side]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def tiff(*pages: Page, order: str = "<") -> bytes:
    """A file of these pages, in this order."""
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    following = 0
    for each in reversed(pages):
        following = _write(out, each, following, order)
    out[4:8] = struct.pack(order + "L", following)
    return bytes(out)


def with_pixels_last(written: Page, order: str = "<") -> bytes:
    """A file of one page whose pixels lie behind everything else, as most programs write it."""
    places, lengths = (324, 325) if written.tiled else (273, 279)
    sizes = [len(piece) for piece in written.pieces]
    known = written.tags | {lengths: (LONG, sizes)}
    start = len(tiff(Page(known | {places: (LONG, sizes)}, []), order=order))
    offsets = [start + sum(sizes[:index]) for index in range(len(sizes))]
    return tiff(Page(known | {places: (LONG, offsets)}, []), order=order) + b"".join(written.pieces)


def _put(out: bytearray, data: bytes) -> int:
    out.extend(bytes(len(out) % 2))
    out.extend(data)
    return len(out) - len(data)


def _write(out: bytearray, written: Page, following: int, order: str) -> int:
    places, lengths = (324, 325) if written.tiled else (273, 279)
    tags = dict(written.tags)
    if written.pieces:
        tags[places] = (LONG, [_put(out, piece) for piece in written.pieces])
        tags[lengths] = (LONG, [len(piece) for piece in written.pieces])
    if written.below:
        tags[330] = (LONG, [_write(out, each, 0, order) for each in written.below])
    rows = b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = np.asarray(values).astype(order + _CODES[kind]).tobytes()
        value = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "L", _put(out, raw))
        rows += struct.pack(order + "HHL", tag, kind, len(values)) + value
    return _put(out, struct.pack(order + "H", len(tags)) + rows + struct.pack(order + "L", following))


def png(samples: NDArray[Any], bits: int, key: Sequence[int] = ()) -> bytes:
    """A grey or an RGB PNG of 1 to 16 bits, whose pixels of the colour ``key`` are transparent."""
    height, width = samples.shape[:2]
    digits = samples.reshape(height, -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1
    rows = np.packbits(digits.reshape(height, -1).astype(np.uint8), axis=1)
    colour = 2 if samples.ndim == 3 else 0
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    keyed = chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + keyed + pixels + chunk(b"IEND")


def bmp(rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | int) -> bytes:
    """A BMP of 32 bits whose header says where the alpha channel is."""
    height, width = rgb.shape[:2]
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = rgb[..., ::-1], alpha
    data = pixels[::-1].tobytes()
    masks = struct.pack("<LLLL", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<LllHHLLllLL", 124, width, height, 1, 32, 3, len(data), 2835, 2835, 0, 0) + masks
    start = 14 + 124
    return b"BM" + struct.pack("<LHHL", start + len(data), 0, 0, start) + info.ljust(124, b"\0") + data
