"""What can be learnt from a picture's bytes before any pixel is decoded: the format, WebP sizes, frames, parts.

Pillow counts frames by walking all of them, allocates a WebP canvas before it tells the size, and reads every segment
of a file, however many; these walk no further than the limit and allocate nothing. None of them raises: broken bytes
count as no further frame or part.
"""

from __future__ import annotations

import re
import struct

from service.imaging.heif import picture_coding
from service.imaging.iso_media import Boxes

__all__ = ["MAX_PARTS", "branded", "count_frames", "count_parts", "has_short_header", "sniff", "webp_size"]

# Far above what cameras and programs write, and read in a fraction of a second. A JPEG of 16 MiB needs 250 segments.
# A strip or tile of a TIFF takes Pillow 8 µs and 330 bytes, a run of a BMP 0.2 µs.
MAX_PARTS = {"JPEG": 1000, "PNG": 100_000, "GIF": 200_000, "TIFF": 100_000, "BMP": 2_000_000}

_SCAN = 10  # a scan of a JPEG counts as so many parts: a few bytes of it make libjpeg walk through all pixels once more
_PADDING = 64  # so many bytes between two segments of a JPEG count as one part
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither an escaped 0xFF, nor padding, nor a restart marker
_BARE_MARKERS = (0x01, 0xD8, 0xD9)  # they have no length: TEM, start and end of the picture

# Of a JPEG: it is read, and its digest computed, in a quarter of a millisecond; at worst, of 1000 parts, in a few.
_SHORT_FILE, _SHORT_HEADER = 2**18, 2**14
_START_OF_SCAN = b"\xff\xda"

_TIFF = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")

_AVIF = {b"avif", b"avis"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
# Of pictures, whatever they are coded in: structural ones, and those of AVC, JPEG, JPEG 2000 and VVC.
_PICTURES = {b"mif1", b"mif2", b"miaf", b"msf1", b"avci", b"avcs", b"jpeg", b"jpgs", b"j2ki", b"j2is", b"vvic", b"vvis"}
# The brands by which libavif and libheif take a file for their own, the first of which is as good as any.
_TAKEN = {"AVIF": (b"avif", b"avis"), "HEIF": (b"heic", b"heix", b"mif1")}
_DERIVED = {"grid", "iden", "iovl"}  # made of other items, which are not found


def sniff(data: bytes) -> str | None:
    """Return Pillow's name of the format that ``data`` begins like, or None where it is none that is read here."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(_TIFF):
        return "TIFF"
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    starts = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF87a": "GIF", b"GIF89a": "GIF", b"BM": "BMP"}
    return next((name for start, name in starts.items() if data.startswith(start)), None)


def _iso_media(data: bytes) -> str | None:
    """Tell AVIF and HEIF by what the picture is coded in, else by the brands; None for videos and raw files.

    An HEIF in which no picture is found is taken for a cut one, unless it has the tracks of a video.
    """
    if data[8:12] == b"crx ":
        return None
    coded, brands = picture_coding(data), {data[8:12], *_further_brands(data)}
    if coded is not None and coded not in _DERIVED:
        return "AVIF" if coded == "av01" else "HEIF"
    if brands & _AVIF:
        return "AVIF"
    if coded or brands & _HEIF:
        return "HEIF"
    return "HEIF" if brands & _PICTURES and not _has_tracks(data) else None


def branded(name: str, data: bytes) -> bytes:
    """Return the file with a brand that the library of the format ``name`` wants, in the place of those it does not."""
    wanted, further = _TAKEN.get(name, ()), _further_brands(data)
    claimed = {*further, data[8:12]} if name == "AVIF" else set(further)
    if not wanted or not further or claimed & set(wanted):
        return data
    return data[:16] + wanted[0] * len(further) + data[16 + 4 * len(further) :]


def _further_brands(data: bytes) -> list[bytes]:
    """Return the brands behind the first one, the only ones at which libheif looks."""
    end = min(int.from_bytes(data[:4], "big"), 256)
    return [data[start : start + 4] for start in range(16, end - 3, 4)]


def _has_tracks(data: bytes) -> bool:
    try:
        return any(kind == b"moov" for kind, _, _ in Boxes(data).within(0, len(data)))
    except (ValueError, struct.error):
        return False


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return the (width, height) that a WebP header states, None where it states none."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def count_frames(name: str, data: bytes, limit: int) -> int:
    """Count the frames of a GIF or TIFF, at most ``limit + 1`` of them; other formats count as one frame."""
    counter = {"GIF": _count_gif, "TIFF": _count_tiff}.get(name)
    if counter is None:
        return 1
    try:
        return counter(data, limit)
    except (IndexError, struct.error):
        return 1  # the tables end early: Pillow judges the first frame


def has_short_header(data: bytes) -> bool:
    """Whether a picture's header is read in no time to speak of, whoever wrote it.

    That is known of small JPEGs without much metadata alone: other formats have compressed text, tables of offsets and
    boxes within boxes.
    """
    return len(data) <= _SHORT_FILE and sniff(data) == "JPEG" and data.find(_START_OF_SCAN, 0, _SHORT_HEADER) > 0


def count_parts(name: str, data: bytes) -> int:
    """Count what a decoder reads one by one: a JPEG's segments and scans, a PNG's chunks, a GIF's blocks.

    Counts one beyond ``MAX_PARTS[name]`` at most, scans and padding aside; 0 for other formats. A TIFF's
    strips and tiles and a BMP's runs are counted where they are read.
    """
    counter = {"JPEG": _count_segments, "PNG": _count_chunks, "GIF": _count_blocks}.get(name)
    return 0 if counter is None else counter(data, MAX_PARTS[name])


def _count_segments(data: bytes, limit: int) -> int:
    parts, position, in_scans = 0, 2, False
    while parts <= limit and (marker := _MARKER.search(data, position)):
        kind = data[marker.start() + 1]
        if in_scans and kind == 0xD9:
            break
        if not in_scans:
            parts += (marker.start() - position) // _PADDING
        parts += _SCAN if kind == 0xDA else 1
        in_scans = in_scans or kind == 0xDA
        position = marker.end()
        if kind not in _BARE_MARKERS:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
    return parts if in_scans else parts + max(0, len(data) - position) // _PADDING


def _count_chunks(data: bytes, limit: int) -> int:
    chunks, position = 0, 8
    while position < len(data) and chunks <= limit:
        chunks += 1
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return chunks


def _count_blocks(data: bytes, limit: int) -> int:
    """Count a GIF's data blocks, up to 255 bytes each, and the bytes that belong to none."""
    if len(data) < 13:
        return 0
    parts, position = 0, 13 + _gif_colours(data[10])
    while parts <= limit and position < len(data) and data[position] != 0x3B:
        parts += 1
        if data[position] == 0x2C and position + 9 < len(data):
            position += 11 + _gif_colours(data[position + 9])
        elif data[position] == 0x21:
            position += 2
        else:
            position += 1
            continue
        while parts <= limit and position < len(data) and data[position]:
            parts += 1
            position += data[position] + 1
        position += 1
    return parts


def _count_gif(data: bytes, limit: int) -> int:
    position = 13 + _gif_colours(data[10])
    frames = 0
    while frames <= limit and position < len(data):
        block = data[position]
        if block == 0x2C:  # an image: descriptor, its own colours, code size, data
            frames += 1
            if position + 9 >= len(data):
                break
            position = _skip_blocks(data, position + 11 + _gif_colours(data[position + 9]))
        elif block == 0x21:  # an extension: label, data
            position = _skip_blocks(data, position + 2)
        elif block == 0x3B:  # the end, as Pillow sees it
            break
        else:
            position += 1
    return frames


def _gif_colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _skip_blocks(data: bytes, position: int) -> int:
    while position < len(data) and data[position]:
        position += data[position] + 1
    return position + 1


def _count_tiff(data: bytes, limit: int) -> int:
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    count_format, offset_format, entry = (order + "Q", order + "Q", 20) if big else (order + "H", order + "L", 12)
    position = struct.unpack_from(offset_format, data, 8 if big else 4)[0]
    seen: set[int] = set()
    while position and position not in seen and position < len(data) and len(seen) <= limit:
        seen.add(position)
        try:
            entries = struct.unpack_from(count_format, data, position)[0]
            position = struct.unpack_from(
                offset_format, data, position + struct.calcsize(count_format) + entries * entry
            )[0]
        except struct.error:
            break
    return len(seen)
