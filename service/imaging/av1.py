"""The sizes that the AV1 streams inside an AVIF state, which may be other than the file's own header says.

Room is made for what the stream states: an AVIF of 8 × 8 pixels and a kilobyte may unfold to 16384 × 16384. Follows
ISO/IEC 14496-12 (boxes, item locations, sample tables) and the AV1 bitstream specification, 5.3 and 5.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.imaging.iso_media import Boxes, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["coded_pixels"]

_CONTAINERS = (b"trak", b"mdia", b"minf", b"stbl")
_SEQUENCE_HEADER = 1
# Streams take at most so many times the file's bytes: an item and a track may be the same, and no more are.
_MOST_OVERLAPS = 4


def coded_pixels(data: bytes) -> int:
    """Return how many pixels the streams state together: those of all items, or of all tracks if that is more.

    A picture is an item, or several, with its alpha channel, tiles and thumbnails; an animation has tracks, of which
    the first sample counts.

    Raises:
        ValueError: there are more parts than encoders write.
        struct.error, IndexError: the tables end early.
    """
    file = _File(Boxes(data))
    sizes: dict[_Stream, int] = {}
    totals = [0, 0]
    for kind, begin, end in file.boxes.within(0, len(data)):
        if kind not in (b"meta", b"moov"):
            continue
        for stream in file.items(begin + 4, end) if kind == b"meta" else file.samples(begin, end):
            if stream not in sizes:
                sizes[stream] = file.stated_pixels(stream)
            totals[kind == b"moov"] += sizes[stream]
    return max(totals)


_Stream = tuple[tuple[int, int], ...]  # the (start, length) of its pieces


@dataclass
class _File:
    boxes: Boxes
    read: int = 0

    @property
    def data(self) -> bytes:
        return self.boxes.data

    def samples(self, start: int, end: int) -> Iterator[_Stream]:
        """Yield where the first sample of every track in these boxes lies."""
        table: dict[bytes, int] = {}
        for kind, begin, stop in self.boxes.within(start, end):
            table[kind] = begin
            if kind in _CONTAINERS:
                yield from self.samples(begin, stop)
        chunks = table.get(b"stco", table.get(b"co64"))
        if chunks is not None and b"stsz" in table:
            offset = Numbers(self.data, chunks + 8).next(4 if b"stco" in table else 8)
            sizes = Numbers(self.data, table[b"stsz"] + 4)
            same, many = sizes.next(4), sizes.next(4)
            yield ((offset, same or (sizes.next(4) if many else 0)),)

    def items(self, start: int, end: int) -> Iterator[_Stream]:
        """Yield where every item of a "meta" box lies."""
        found = {kind: begin for kind, begin, _ in self.boxes.within(start, end)}
        if b"iloc" not in found:
            return
        at = Numbers(self.data, found[b"iloc"])
        version = at.next(1)
        at.next(3)
        sizes = at.next(2)
        offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
        for _ in range(at.next(2 if version < 2 else 4)):
            self.boxes.step()
            at.next(2 if version < 2 else 4)
            inside = version > 0 and at.next(2) & 15 == 1  # in the box "idat" rather than in the file
            at.next(2)
            base = at.next(base_size) + (found.get(b"idat", 0) if inside else 0)
            pieces = []
            for _ in range(at.next(2)):
                self.boxes.step()
                at.next(index_size if version > 0 else 0)
                place = at.next(offset_size)
                pieces.append((base + place, at.next(length_size)))
            yield tuple(pieces)

    def joined(self, stream: _Stream) -> bytes:
        """Return a stream's bytes.

        Raises:
            ValueError: the streams read by now are the same bytes many times over.
        """
        ends = [start + length if length else len(self.data) for start, length in stream]
        spans = [slice(start, end) for (start, _), end in zip(stream, ends, strict=True)]
        self.read += sum(len(range(*span.indices(len(self.data)))) for span in spans)
        if self.read > _MOST_OVERLAPS * len(self.data):
            raise ValueError("the streams of the file overlap")
        return b"".join(self.data[span] for span in spans)

    def stated_pixels(self, stream: _Stream) -> int:
        """Return the greatest size that a stream's sequence headers state; 0 where it is no AV1."""
        data = self.joined(stream)
        position, most = 0, 0
        while position < len(data):
            self.boxes.step()
            head = data[position]
            position += 2 if head & 4 else 1
            size = len(data) - position
            if head & 2:
                size, position = _leb128(data, position)
            if head >> 3 & 15 == _SEQUENCE_HEADER:
                most = max(most, _size_in(data[position : position + size]))
            position += size
        return most


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    """Return a number of up to 8 bytes, 7 bits in each, the lowest first, and the position behind it."""
    number = 0
    for index in range(8):
        if position >= len(data):
            break
        number |= (data[position] & 0x7F) << 7 * index
        position += 1
        if data[position - 1] < 0x80:
            break
    return number, position


@dataclass
class _Bits:
    data: bytes
    position: int = 0

    def read(self, count: int) -> int:
        """Read a number of ``count`` bits; zeros behind the end."""
        number = int.from_bytes(
            self.data[self.position >> 3 : (self.position + count + 7) >> 3].ljust(8, b"\0")[:8], "big"
        )
        shift = 64 - (self.position & 7) - count
        self.position += count
        return number >> shift & (1 << count) - 1

    def skip_long(self) -> None:
        """Skip a number of variable length (uvlc)."""
        zeros = 0
        while zeros < 32 and self.position < 8 * len(self.data) and not self.read(1):
            zeros += 1
        self.position += zeros


def _size_in(header: bytes) -> int:
    """Return width times height of a sequence header."""
    bits = _Bits(header)
    bits.read(4)  # profile, whether it is a still picture
    if bits.read(1):  # reduced header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    wide, high = bits.read(4) + 1, bits.read(4) + 1
    return (bits.read(wide) + 1) * (bits.read(high) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(32)
        bits.read(32)
        if bits.read(1):
            bits.skip_long()
        if bits.read(1):  # decoder model
            delay_bits = bits.read(5) + 1
            bits.read(32)
            bits.read(10)
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(delay_bits)
            bits.read(delay_bits)
            bits.read(1)
        if has_delay and bits.read(1):
            bits.read(4)
