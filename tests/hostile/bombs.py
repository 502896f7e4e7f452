"""Files that are small to send and dear to read: one builder per trick."""

from __future__ import annotations

import struct
import zlib
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from PIL import Image

from tests.toys import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_BYTES = 16 * 1024 * 1024  # the default of max_image_bytes


# -- PNG --------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *before: bytes, depth: int = 8, colour: int = 0, after: bytes = b"") -> bytes:
    """A black PNG, with further chunks ``before`` its pixels and ``after`` them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    pixels = chunk(b"IDAT", zeros((1 + -(-width * depth * channels // 8)) * height))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + after + chunk(b"IEND")


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zeros(100))


@cache
def zeros(length: int) -> bytes:
    """``length`` zero bytes, deflated a thousandfold, without ever holding them."""
    deflate, block = zlib.compressobj(9), bytes(1 << 20)
    parts = [deflate.compress(block) for _ in range(length >> 20)]
    return b"".join([*parts, deflate.compress(bytes(length & (1 << 20) - 1)), deflate.flush()])


def many_chunks(kind: bytes, data: bytes = b"", *, after: bool = False) -> bytes:
    """A PNG of 8 × 8 pixels and as many further chunks as fit."""
    more = chunk(kind, data)
    more *= (MAX_BYTES - 1000) // len(more)
    return png(8, 8, after=more) if after else png(8, 8, more)


def apng(frames: int) -> bytes:
    control = struct.pack(">IIIIHHBB", 8, 8, 0, 0, 1, 10, 0, 0)
    first = [chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"fcTL", struct.pack(">I", 0) + control)]
    rest = (
        chunk(b"fcTL", struct.pack(">I", 2 * index + 1) + control)
        + chunk(b"fdAT", struct.pack(">I", 2 * index + 2) + zeros(72))
        for index in range(min(frames - 1, 100_000))
    )
    return png(8, 8, *first, after=b"".join(rest))


# -- JPEG -------------------------------------------------------------------------------------------------------------


def segment(marker: int, data: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


@cache
def grey_jpeg(side: int, *, progressive: bool = False) -> bytes:
    return encode(Image.new("L", (side, side), 128), "JPEG", progressive=progressive)


def jpeg_with(segments: bytes, side: int = 8) -> bytes:
    return b"\xff\xd8" + segments + grey_jpeg(side)[2:]


def jpeg_header(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x11\0\x02\x11\0\x03\x11\0"
    return b"\xff\xd8" + segment(0xC0, frame) + segment(0xDA, b"\x03\x01\0\x02\x11\x03\x11\0\x3f\0") + bytes(20)


def scan_bomb(side: int, scans: int) -> bytes:
    """A progressive JPEG whose scans each say of every block, in a few bytes, that nothing changes."""
    start = grey_jpeg(side, progressive=True)
    tables = start[: start.index(b"\xff\xda")]
    # A Huffman table with two codes of one bit: 0 is the end of a band (1 block), 10 the end of 2^14 bands and more.
    table = segment(0xC4, b"\x10" + bytes([1, 1, *[0] * 14]) + b"\x00\xe0")
    blocks = (-(-side // 8)) ** 2
    runs, rest = divmod(blocks, 1 << 14)
    bits = ("10" + "0" * 14) * runs + "0" * rest
    bits += "1" * (-len(bits) % 8)
    band = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = segment(0xDA, b"\x01\x01\x00\x01\x3f\x00") + band
    return tables + table + scan * scans + b"\xff\xd9"


# -- GIF --------------------------------------------------------------------------------------------------------------


def gif(width: int, height: int, *frames: bytes) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"".join(frames) + b";"


def gif_frame(width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    return b"," + struct.pack("<HHHHB", left, top, width, height, 0) + b"\x02\x02D\x01\0"


@cache
def black_gif(width: int, height: int) -> bytes:
    return encode(Image.new("P", (width, height)), "GIF")


# -- BMP --------------------------------------------------------------------------------------------------------------


def bmp(width: int, height: int, bits: int = 24, compression: int = 0, data: bytes = b"") -> bytes:
    colours = bytes({4: 64, 8: 1024}.get(bits, 0))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(colours) + len(data), 0, 0, 54 + len(colours)) + info + colours + data


# -- TIFF -------------------------------------------------------------------------------------------------------------

Entry = tuple[int, int, int, int]  # tag, type (3 a short, 4 a long, 2 text …), count, value or offset


def tiff(entries: Iterable[Entry], data: bytes = b"", next_offset: int = 0) -> bytes:
    """One directory, at offset 8; ``data`` follows it."""
    rows = [struct.pack("<HHII", *entry) for entry in sorted(entries)]
    return b"II*\0" + struct.pack("<IH", 8, len(rows)) + b"".join(rows) + struct.pack("<I", next_offset) + data


def strips(width: int, height: int, compression: int = 1, offset: int = 300, length: int = 100) -> list[Entry]:
    """The entries of a grey picture in one strip."""
    return [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, 8),
        (259, 3, 1, compression),
        (262, 3, 1, 1),
        (273, 4, 1, offset),
        (277, 3, 1, 1),
        (278, 4, 1, height),
        (279, 4, 1, length),
    ]


def deflated_tiff(width: int, height: int, length: int = 0) -> bytes:
    """A grey picture in one strip, which inflates to ``length`` bytes if that is given."""
    pixels = zeros(length or width * height)
    head = tiff(strips(width, height, 8, 300, len(pixels)))
    return head.ljust(300, b"\0") + pixels


def tiled(width: int, height: int, tile: int, compression: int = 1) -> bytes:
    rows: list[Entry] = [entry for entry in strips(width, height, compression) if entry[0] not in (273, 278, 279)]
    return tiff([*rows, (322, 4, 1, tile), (323, 4, 1, tile), (324, 4, 1, 300), (325, 4, 1, 100)], bytes(500))


def wide_tiff(side: int) -> bytes:
    """Three floats of 64 bits for each pixel."""
    pixels = zeros(24 * side * side)
    rows: list[Entry] = [entry for entry in strips(side, side, 8, 300, len(pixels)) if entry[0] not in (258, 262, 277)]
    rows += [(258, 3, 1, 64), (262, 3, 1, 2), (277, 3, 1, 3), (339, 3, 1, 3)]
    return tiff(rows).ljust(300, b"\0") + pixels


def many_directories(count: int) -> bytes:
    """So many empty directories, each pointing to the next."""
    return b"II*\0" + struct.pack("<I", 8) + b"".join(struct.pack("<HI", 0, 14 + 6 * index) for index in range(count))


def parted_tiff(
    width: int, height: int, side: int, *, tile: bool = False, packed: bool = False, bits: int = 8, before: bytes = b""
) -> bytes:
    """A grey picture in strips of ``side`` rows or in such square tiles: all the same bytes, behind ``before``."""
    pixels = bytes(side * (side if tile else width) * bits // 8)
    if packed:
        deflated = zlib.compress(pixels)
        pixels = deflated[:2] + before + deflated[2:]
    count = -(-height // side) * (-(-width // side) if tile else 1)
    start = 300 + 8 * count
    rows: list[Entry] = [
        entry for entry in strips(width, height, 8 if packed else 1) if entry[0] not in (258, 273, 278, 279)
    ]
    places, lengths = (324, 325) if tile else (273, 279)
    rows += [(258, 3, 1, bits), (places, 4, count, 300), (lengths, 4, count, 300 + 4 * count)]
    rows += [(322, 4, 1, side), (323, 4, 1, side)] if tile else [(278, 4, 1, side)]
    listed = struct.pack("<I", start) * count + struct.pack("<I", len(pixels)) * count
    return tiff(rows).ljust(300, b"\0") + listed + pixels


def pages_of_one_tag(count: int, size: int) -> bytes:
    """So many pages, and what each says of its kind, colours and compression is the same ``size`` bytes."""
    tags = (254, 255, 259, 262, 330)
    length = 2 + 12 * len(tags) + 4
    start = 8 + count * length
    pages = [
        struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, 3, size // 2, start) for tag in tags)
        + struct.pack("<I", 8 + (index + 1) * length if index + 1 < count else 0)
        for index in range(count)
    ]
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages) + bytes(size)


def shared_entries(count: int, entries: int) -> bytes:
    """Pages whose entries are nearly the same bytes: each begins 12 bytes behind the one before, and says its width."""
    entry = struct.pack("<HHII", 256, 4, 1, 8)
    # What begins a directory is the end of an entry: how many there are, in the upper half of a value.
    entry = entry[:10] + struct.pack("<H", entries)
    data = bytearray(b"II*\0" + struct.pack("<I", 18) + entry * (entries + count + 2))
    for index in range(count - 1):
        place = 18 + 12 * index + 2 + 12 * entries
        data[place : place + 4] = struct.pack("<I", 18 + 12 * (index + 1))
    return bytes(data)


def many_strips(count: int) -> bytes:
    """A picture of 16 bits, one strip for each of its few rows, and places of strips beyond them."""
    rows: list[Entry] = [entry for entry in strips(8, 8) if entry[0] not in (258, 273, 278, 279)]
    rows += [(258, 3, 1, 16), (273, 4, count, 300), (278, 4, 1, 1)]
    return tiff(rows).ljust(300, b"\0") + struct.pack("<I", 300) * min(count, (MAX_BYTES - 1000) // 4)


def big_tiff(entries: int) -> bytes:
    """A BigTIFF whose directory has ``entries`` entries, each of another tag."""
    wanted = {tag: (kind, value) for tag, kind, _, value in strips(8, 8)}
    rows = [(tag & 0xFFFF, *wanted.get(tag & 0xFFFF, (3, 0))) for tag in range(entries)]
    body = b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in rows)
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, entries) + body + bytes(8)


# -- WebP -------------------------------------------------------------------------------------------------------------


def webp_canvas(width: int, height: int, flags: int = 0, more: bytes = b"") -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<II", 10, flags) + size + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


@cache
def black_webp(width: int, height: int) -> bytes:
    return encode(Image.new("RGB", (width, height)), "WEBP", lossless=True, method=0)


@cache
def animated_webp(frames: int) -> bytes:
    pictures = [Image.new("RGB", (16, 16), (index % 256, 0, 0)) for index in range(frames)]
    return encode(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], lossless=True, method=0)


@cache
def lying_avif(side: int) -> bytes:
    """An AVIF whose header says 8 × 8 pixels, and its stream ``side`` × ``side``."""
    data = encode(Image.new("RGB", (side, side)), "AVIF", speed=10, quality=30)
    stated = struct.pack(">LL", side, side)
    assert data.count(b"ispe\0\0\0\0" + stated) == 1
    return data.replace(stated, struct.pack(">LL", 8, 8))


def overlapping_avif(pieces: int, size: int) -> bytes:
    """An AVIF with one more item, whose pieces are all the same ``size`` bytes of the file."""
    item = struct.pack(">HHHHH", 1, 9, 0, 0, pieces) + struct.pack(">LL", 0, size) * pieces
    table = struct.pack(">L4sLH", 14 + len(item), b"iloc", 1 << 24, 0x4400) + item
    further = struct.pack(">L4sL", 12 + len(table), b"meta", 0) + table
    return encode(Image.new("RGB", (8, 8)), "AVIF") + further + bytes(size)


def overlapping_heif(boxes: int) -> bytes:
    """An HEIF whose boxes each say the 65,535 items that it is made of, and are all of them but the first 12 bytes."""
    one = struct.pack(">L4sHH", 12, b"dimg", 1, 65_535)
    relations = struct.pack(">L4sL", 12 + len(one) * boxes, b"iref", 0) + one * boxes
    primary = struct.pack(">L4sLH", 14, b"pitm", 0, 1)
    items = struct.pack(">L4sLHL4sLHH4s", 34, b"iinf", 0, 1, 20, b"infe", 2 << 24, 1, 0, b"hvc1")
    tables = primary + items + relations + struct.pack(">L4s", 8, b"iprp")
    head = struct.pack(">L4s4sL4s", 20, b"ftyp", b"heic", 0, b"mif1")
    return head + struct.pack(">L4sL", 12 + len(tables), b"meta", 0) + tables + bytes(2 * 65_535)


def overlapping_tags(count: int, size: int) -> bytes:
    """A TIFF with ``count`` more tags, all of them the same ``size`` bytes of the file."""
    start = 8 + 2 + 12 * (9 + count) + 4
    more: list[Entry] = [(40_000 + index, 7, size, start) for index in range(count)]
    return tiff([*strips(8, 8, offset=start), *more], bytes(size))


def with_exif(exif: bytes, name: str) -> bytes:
    """A small picture with these bytes, a TIFF of their own, as its EXIF."""
    if name == "JPEG":  # a segment has room for 65,533 bytes; Pillow joins those that follow
        parts = [exif[start : start + 65_000] for start in range(0, len(exif), 65_000)]
        return jpeg_with(b"".join(segment(0xE1, b"Exif\0\0" + part) for part in parts))
    if name == "PNG":
        return png(8, 8, chunk(b"eXIf", exif))
    still = black_webp(8, 8)[12:]
    pair = exif + b"\0" * (len(exif) % 2)
    return webp_canvas(8, 8, 8, still + b"EXIF" + struct.pack("<I", len(exif)) + pair)


def saved(mode: str, name: str, **options: Any) -> bytes:
    """A plain picture of 4000 × 4000 pixels."""
    return encode(Image.new(mode, (SIDE, SIDE), 5), name, **options)


def checked() -> Image.Image:
    """A picture at the limit, half transparent in one corner."""
    image = Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 255))
    image.paste((200, 0, 0, 128), (0, 0, 100, 100))
    return image


# -- all of them ------------------------------------------------------------------------------------------------------

SIDE = 4000
MAX_PIXELS = SIDE * SIDE
TALL = 4_200_000  # so many rows of one pixel take as much room as MAX_PIXELS pixels
READ, DAMAGED, TOO_LARGE = "read", "invalid_image", "image_too_large"

# Name → how it is made, and what is to become of it where MAX_PIXELS and 1000 frames are allowed.
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png of 200 megapixels": (lambda: png(20_000, 10_000), TOO_LARGE),
    "png of 2^31 rows": (lambda: png_header(1, 2**31 - 1), TOO_LARGE),
    "png at the limit": (lambda: png(SIDE, SIDE), READ),
    "png at the limit, grey with alpha": (lambda: png(SIDE, SIDE, colour=4), READ),
    "png at the limit, colour with alpha": (lambda: png(SIDE, SIDE, colour=6), READ),
    "png at the limit, 16 bits": (lambda: png(SIDE, SIDE, depth=16), READ),
    "png at the limit, three times 16 bits": (lambda: png(SIDE, SIDE, depth=16, colour=2), READ),
    "png of 16 megapixels in a column": (lambda: png(1, SIDE * SIDE), TOO_LARGE),
    "png of 16 megapixels in a row": (lambda: png(SIDE * SIDE, 1), TOO_LARGE),
    "png of as many rows as may be": (lambda: png(1, TALL), READ),
    "png of as many rows as may be, with alpha": (lambda: png(1, TALL, colour=4), READ),
    "png of as many rows as may be, three times 16 bits, with a key": (
        lambda: png(1, TALL, chunk(b"tRNS", bytes(6)), depth=16, colour=2),
        READ,
    ),
    "png of as many columns as may be, turned": (
        lambda: png(TALL, 1, chunk(b"eXIf", tiff([(274, 3, 1, 6)])), colour=6),
        READ,
    ),
    "png with more pixels than it says": (lambda: png(8, 8, chunk(b"IDAT", zeros(10**9))), READ),
    "png with a million chunks": (lambda: many_chunks(b"aaAa"), TOO_LARGE),
    "png with a million chunks behind": (lambda: many_chunks(b"aaAa", after=True), TOO_LARGE),
    "png with a million texts": (lambda: many_chunks(b"tEXt", b"k\0v"), TOO_LARGE),
    "png with a million empty pixel chunks": (lambda: many_chunks(b"IDAT"), TOO_LARGE),
    "png with 99,990 chunks": (lambda: png(8, 8, chunk(b"aaAa") * 99_990), READ),
    "png with a profile of a gigabyte": (lambda: png(8, 8, chunk(b"iCCP", b"x\0\0" + zeros(10**9))), DAMAGED),
    "png with a text of a gigabyte": (lambda: png(8, 8, chunk(b"zTXt", b"x\0\0" + zeros(10**9))), DAMAGED),
    "png with a hundred texts of a megabyte": (
        lambda: png(8, 8, chunk(b"zTXt", b"x\0\0" + zeros(10**6)) * 100),
        DAMAGED,
    ),
    "png with a text of a gigabyte behind": (
        lambda: png(8, 8, after=chunk(b"iTXt", b"x\0\1\0\0\0" + zeros(10**9))),
        DAMAGED,
    ),
    "apng of 900 frames": (lambda: apng(900), READ),
    "apng of 100,000 frames": (lambda: apng(100_000), TOO_LARGE),
    "apng that says 2^31 frames": (
        lambda: png(8, 8, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
        TOO_LARGE,
    ),
    "jpeg of 4 gigapixels": (lambda: jpeg_header(65_500, 65_500), TOO_LARGE),
    "jpeg at the limit": (lambda: grey_jpeg(SIDE), READ),
    "jpeg at the limit, progressive": (lambda: grey_jpeg(SIDE, progressive=True), READ),
    "jpeg at the limit, progressive, CMYK": (lambda: saved("CMYK", "JPEG", progressive=True), READ),
    "jpeg of 10,000 scans": (lambda: scan_bomb(SIDE, 10_000), TOO_LARGE),
    "jpeg of 80 scans": (lambda: scan_bomb(SIDE, 80), READ),
    "jpeg with a million pieces of EXIF": (
        lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(8)) * 900_000),
        TOO_LARGE,
    ),
    "jpeg with a million pieces of a profile": (
        lambda: jpeg_with(segment(0xE2, b"ICC_PROFILE\0\1\1") * 900_000),
        TOO_LARGE,
    ),
    "jpeg with four million comments": (lambda: jpeg_with(segment(0xFE) * 4_000_000), TOO_LARGE),
    "jpeg with 16 megabytes of padding": (lambda: jpeg_with(b"\xff" * 16_000_000), TOO_LARGE),
    "jpeg with 16 megabytes of nothing": (lambda: b"\xff\xd8\xff\xd9" + bytes(16_000_000), TOO_LARGE),
    "jpeg with 16 megabytes of EXIF": (
        lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 250),
        READ,
    ),
    "jpeg with 16 megabytes of XMP": (
        lambda: jpeg_with(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 65_000) * 250),
        READ,
    ),
    "jpeg with 16 megabytes of Photoshop": (
        lambda: jpeg_with(segment(0xED, b"Photoshop 3.0\0" + (b"8BIM" + bytes(8)) * 5400) * 250),
        READ,
    ),
    **{
        f"{name.lower()} whose tags are all the same 10 megabytes": (
            partial(with_exif, overlapping_tags(1000, 10_000_000), name),
            READ,
        )
        for name in ("JPEG", "PNG", "WEBP")
    },
    "gif of 4 gigapixels": (lambda: gif(65_535, 65_535, gif_frame(65_535, 65_535)), TOO_LARGE),
    "gif whose frame is larger than its screen": (lambda: gif(1, 1, gif_frame(65_535, 65_535)), TOO_LARGE),
    "gif whose frame lies far outside": (lambda: gif(8, 8, gif_frame(SIDE, SIDE, 60_000, 60_000)), TOO_LARGE),
    "gif of one pixel on a screen at the limit": (lambda: gif(SIDE, SIDE, gif_frame(1, 1)), READ),
    "gif at the limit": (lambda: saved("P", "GIF"), READ),
    "gif of 900 frames at the limit": (lambda: gif(SIDE, SIDE, gif_frame(1, 1), gif_frame(SIDE, SIDE) * 899), READ),
    "gif of a million frames": (lambda: gif(8, 8, gif_frame(8, 8) * 1_000_000), TOO_LARGE),
    "gif with a comment in eight million pieces": (
        lambda: gif(8, 8, b"\x21\xfe" + b"\1x" * 8_000_000 + b"\0", gif_frame(8, 8)),
        TOO_LARGE,
    ),
    "gif with 16 megabytes of nothing": (lambda: gif(8, 8, b"\1" * 16_000_000, gif_frame(8, 8)), TOO_LARGE),
    "bmp of 4 gigapixels": (lambda: bmp(65_535, 65_535), TOO_LARGE),
    "bmp of 2^62 pixels": (lambda: bmp(2**31 - 1, 2**31 - 1), TOO_LARGE),
    "bmp of negative size": (lambda: bmp(-SIDE, -SIDE), TOO_LARGE),
    "bmp of -2^31 rows": (lambda: bmp(8, -(2**31)), TOO_LARGE),
    "bmp at the limit, without pixels": (lambda: bmp(SIDE, SIDE, data=bytes(1000)), DAMAGED),
    "bmp whose runs are one pixel": (lambda: bmp(SIDE, SIDE, 8, 1, b"\1\0" * 7_900_000), TOO_LARGE),
    "bmp of two million runs but for some": (lambda: bmp(SIDE, SIDE, 8, 1, b"\1\0" * 1_999_000 + b"\0\1"), READ),
    "bmp whose lines are empty": (lambda: bmp(SIDE, SIDE, 8, 1, b"\0\0" * 8_000_000), READ),
    "bmp whose lines are one pixel": (lambda: bmp(SIDE, SIDE, 8, 1, b"\1\1\0\0" * SIDE), READ),
    "bmp whose runs reach beyond its lines": (lambda: bmp(1, 1, 8, 1, b"\xff\1" * 7_900_000), READ),
    "bmp whose lines are one pixel of 4 bits": (lambda: bmp(SIDE, SIDE, 4, 2, b"\1\1\0\0" * SIDE), READ),
    "bmp of bytes of 4 bits as they are": (
        lambda: bmp(SIDE, SIDE, 4, 2, (b"\0\xfe" + b"\x12" * 127 + b"\0") * 100_000 + b"\0\1"),
        READ,
    ),
    "bmp of 16 megapixels in a column": (lambda: bmp(1, 4_000_000, 8, 0, bytes(16_000_000)), READ),
    "bmp that only jumps": (lambda: bmp(SIDE, SIDE, 8, 1, b"\0\2\xff\xff" * 10_000), READ),
    "tiff of 4 gigapixels": (lambda: tiff(strips(65_535, 65_535)), TOO_LARGE),
    "tiff of 2^64 pixels": (lambda: tiff(strips(2**32 - 1, 2**32 - 1)), TOO_LARGE),
    "tiff at the limit, deflated": (lambda: deflated_tiff(SIDE, SIDE), READ),
    "tiff with more pixels than it says": (lambda: deflated_tiff(SIDE, SIDE, 10**9), READ),
    "tiff at the limit, without pixels": (lambda: tiff(strips(SIDE, SIDE)), DAMAGED),
    "tiff whose strip lies outside": (lambda: tiff(strips(SIDE, SIDE, offset=2**31)), DAMAGED),
    "tiff whose LZW is none": (lambda: tiff(strips(SIDE, SIDE, 5), bytes(1000)), DAMAGED),
    "tiff with a tile of 1.6 gigapixels": (lambda: tiled(64, 64, 40_000, 8), TOO_LARGE),
    "tiff with a tile of 2^62 pixels": (lambda: tiled(64, 64, 2**31 - 16, 8), TOO_LARGE),
    "tiff with a tile at the limit": (lambda: tiled(64, 64, SIDE, 8), DAMAGED),
    "tiff with a strip for each of 1.9 million pixels": (lambda: parted_tiff(1, 1_900_000, 1), TOO_LARGE),
    "tiff with as many strips as may be": (lambda: parted_tiff(1, 100_000, 1), READ),
    "tiff with as many packed strips as may be": (lambda: parted_tiff(1, 100_000, 1, packed=True), READ),
    "tiff with as many strips of 16 bits as may be": (lambda: parted_tiff(1, 100_000, 1, bits=16), READ),
    "tiff with as many tiles as may be": (lambda: parted_tiff(400, 250, 1, tile=True), READ),
    "tiff with a tile for each pixel": (lambda: parted_tiff(1000, 500, 1, tile=True), TOO_LARGE),
    "tiff whose strips are all the same megabyte of nothing": (
        lambda: parted_tiff(1, 50_000, 1, packed=True, before=b"\0\0\0\xff\xff" * 200_000),
        TOO_LARGE,
    ),
    "tiff of 900 pages that are all said in the same 10 megabytes": (
        lambda: pages_of_one_tag(900, 10_000_000),
        TOO_LARGE,
    ),
    "tiff of 900 pages that share 4000 entries": (lambda: shared_entries(900, 4000), DAMAGED),
    "tiff of 900 pages that share 60,000 entries": (lambda: shared_entries(900, 60_000), DAMAGED),
    "tiff that says a million times how many bits": (
        lambda: tiff([entry for entry in strips(8, 8) if entry[0] != 258] + [(258, 3, 10**6, 300)], bytes(2_000_300)),
        TOO_LARGE,
    ),
    "tiff with 62,500 tiles": (lambda: tiled(SIDE, SIDE, 16, 8), DAMAGED),
    "tiff with a directory of 800,000 entries": (lambda: big_tiff(800_000), DAMAGED),
    "tiff with a tag of 4 gigabytes": (lambda: tiff([*strips(8, 8), (270, 2, 2**32 - 1, 0)], bytes(500)), READ),
    "tiff whose tags are all the same 10 megabytes": (lambda: overlapping_tags(1000, 10_000_000), READ),
    "tiff whose directories form a circle": (lambda: tiff(strips(8, 8), bytes(500), 8), READ),
    "tiff of numbers": (lambda: saved("I", "TIFF", compression="tiff_adobe_deflate"), READ),
    "tiff of floats": (lambda: saved("F", "TIFF", compression="tiff_adobe_deflate"), READ),
    "tiff of short numbers": (lambda: saved("I;16", "TIFF", compression="tiff_adobe_deflate"), READ),
    "tiff of CMYK": (lambda: saved("CMYK", "TIFF", compression="tiff_lzw"), READ),
    "tiff of a fax": (lambda: saved("1", "TIFF", compression="group4"), READ),
    "tiff of three doubles": (lambda: wide_tiff(1800), READ),
    "tiff of three doubles in a file of many": (lambda: wide_tiff(SIDE), TOO_LARGE),
    "tiff whose directories are a million": (lambda: many_directories(1_000_000), TOO_LARGE),
    "tiff with a strip for every row, and four million": (lambda: many_strips(4_000_000), TOO_LARGE),
    "avif at the limit": (lambda: saved("RGB", "AVIF", speed=10), READ),
    "avif at the limit, with alpha": (lambda: encode(checked(), "AVIF", speed=10), READ),
    "avif of 8 pixels that unfolds to the limit": (lambda: lying_avif(SIDE), READ),
    "avif of 8 pixels that unfolds to 64 megapixels": (lambda: lying_avif(8000), TOO_LARGE),
    "avif with an item that is the same 10 megabytes 60,000 times": (
        lambda: overlapping_avif(60_000, 10_000_000),
        DAMAGED,
    ),
    "heif of 100,000 boxes that each name 65,535 items": (lambda: overlapping_heif(100_000), DAMAGED),
    "webp of a canvas of 268 megapixels": (lambda: webp_canvas(16_384, 16_384), TOO_LARGE),
    "webp with a canvas of 2^48 pixels": (lambda: webp_canvas(2**24, 2**24), TOO_LARGE),
    "webp of a canvas at the limit and nothing on it": (lambda: webp_canvas(SIDE, SIDE), DAMAGED),
    "webp at the limit": (lambda: black_webp(SIDE, SIDE), READ),
    "webp of 1001 frames": (lambda: animated_webp(1001), TOO_LARGE),
}
