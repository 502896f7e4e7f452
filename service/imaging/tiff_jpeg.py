"""What the JPEGs inside a TIFF say of themselves, where the TIFF's own tags say otherwise.

libtiff believes the tags: a stream of Y, Cb and Cr is shown as red, green and blue where they call it RGB, and refused
where they have other subsampling. tifffile and others put whole JFIF streams into a TIFF, which say what they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from service.imaging.tiff import Tag

if TYPE_CHECKING:
    from service.imaging.tiff import Directory

__all__ = ["Stream", "first_stream", "without"]

_HEAD_BYTES = 65_536
_BARE_MARKERS = (0x01, 0xD8, *range(0xD0, 0xD8))
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


@dataclass(slots=True)
class Stream:
    """The head of a JPEG.

    Attributes:
        colours: "YCbCr" or "RGB" where it says so, by a JFIF or an Adobe segment or by the names of its components.
        subsampling: how many pixels across and down share a Cb and a Cr; None where it has not three components.
    """

    colours: str | None = None
    subsampling: tuple[int, int] | None = None


def first_stream(directory: Directory) -> Stream:
    """Read the head of a TIFF's first strip or tile; an empty description where that is no JPEG."""
    tag = Tag.TILE_OFFSETS if Tag.TILE_WIDTH in directory else Tag.STRIP_OFFSETS
    start = max(0, directory.value(tag, 0))
    return _read_head(directory.data[start : start + _HEAD_BYTES])


def without(directory: Directory, tag: int) -> Directory:
    """Return the directory, and its file, as if it did not say ``tag``."""
    big = 43 in directory.data[2:4]
    size, head = (20, 8) if big else (12, 2)
    data = bytearray(directory.data)
    count = int.from_bytes(data[directory.offset : directory.offset + head], _byte_order(directory.order))
    for start in range(directory.offset + head, directory.offset + head + count * size, size):
        if int.from_bytes(data[start : start + 2], _byte_order(directory.order)) == tag:
            data[start : start + 2] = b"\xff\xff"  # a number that nobody knows
    return replace(
        directory, data=bytes(data), entries={key: entry for key, entry in directory.entries.items() if key != tag}
    )


def _byte_order(order: str) -> Literal["little", "big"]:
    return "little" if order == "<" else "big"


def _read_head(data: bytes) -> Stream:
    stream, position = Stream(), 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        position += 1 if marker == 0xFF else 2
        if marker == 0xFF or marker in _BARE_MARKERS:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        body = data[position + 2 : position + length]
        if marker == 0xE0 and body.startswith(b"JFIF\0"):
            stream.colours = stream.colours or "YCbCr"
        elif marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            stream.colours = "YCbCr" if body[11] == 1 else "RGB"
        elif marker in _FRAMES:
            _read_frame(stream, body)
            break
        position += max(2, length)
    return stream


def _read_frame(stream: Stream, body: bytes) -> None:
    """Read the components of a frame, which have a name, sampling factors and a table each."""
    components = [body[start : start + 3] for start in range(6, len(body) - 2, 3)]
    if len(components) != 3 or body[5] != 3:
        stream.colours = None
        return
    if bytes(each[0] for each in components) == b"RGB":
        stream.colours = stream.colours or "RGB"
    first, second, third = (each[1] for each in components)
    if second == third and second & 15 and second >> 4:
        stream.subsampling = (first >> 4) // (second >> 4), (first & 15) // (second & 15)
