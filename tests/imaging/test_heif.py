"""How much is decoded of an HEIF that is made of tiles: grids built by hand around a tile that an encoder wrote."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pillow_heif
import pytest
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging import formats
from service.imaging.decode import DecodeLimits, decode, read_header
from service.imaging.heif import coding, decoded_pixels
from service.imaging.iso_media import Boxes
from tests.hostile.bombs import overlapping_heif

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMITS = DecodeLimits(max_bytes=2**24, max_pixels=64_000_000, max_frames=100)


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">L4s", 8 + len(content), kind) + content


def full(kind: bytes, content: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">L", version << 24 | flags) + content)


def coded_tile(side: int) -> tuple[bytes, bytes]:
    """Return the box that configures the decoder, and the stream, of one tile."""
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (side, side), (200, 30, 90))).save(buffer, quality=40)
    data = buffer.getvalue()
    boxes = Boxes(data)
    top = {kind: (begin, end) for kind, begin, end in boxes.within(0, len(data))}
    meta = {kind: (begin, end) for kind, begin, end in boxes.within(top[b"meta"][0] + 4, top[b"meta"][1])}
    ipco = next((begin, end) for kind, begin, end in boxes.within(*meta[b"iprp"]) if kind == b"ipco")
    hvcc = next(data[begin - 8 : end] for kind, begin, end in boxes.within(*ipco) if kind == b"hvcC")
    return hvcc, data[slice(*top[b"mdat"])]


def grids(side: int, *levels: tuple[int, int], states: tuple[int, int] | None = None) -> bytes:
    """Return a grid of (rows, columns), the first of one tile many times over, the others of the grid before.

    Args:
        side: of the tile.
        levels: rows and columns of each grid.
        states: width and height that all grids state; what is right if None.
    """
    hvcc, stream = coded_tile(side)
    items, parts, heads = [(1, b"hvc1")], [], []
    properties, associations = [hvcc, full(b"ispe", struct.pack(">LL", side, side))], [(1, [0x81, 2])]
    width = height = side
    for item, (rows, columns) in enumerate(levels, start=2):
        width, height = width * columns, height * rows
        stated = states or (width, height)
        items.append((item, b"grid"))
        parts.append(
            box(b"dimg", struct.pack(f">HH{rows * columns}H", item, rows * columns, *[item - 1] * rows * columns))
        )
        heads.append(struct.pack(">BBBBLL", 0, 1, rows - 1, columns - 1, *stated))
        properties.append(full(b"ispe", struct.pack(">LL", *stated)))
        associations.append((item, [len(properties)]))
    return _file(items, parts, heads, properties, associations, stream)


def _file(
    items: Sequence[tuple[int, bytes]],
    parts: Sequence[bytes],
    heads: Sequence[bytes],
    properties: Sequence[bytes],
    associations: Sequence[tuple[int, Sequence[int]]],
    stream: bytes,
) -> bytes:
    entries = [
        full(b"infe", struct.pack(">HH4sB", item, 0, kind, 0), 2, int(item != len(items))) for item, kind in items
    ]
    rows = [struct.pack(">HB", item, len(indices)) + bytes(indices) for item, indices in associations]
    ipma = full(b"ipma", struct.pack(">L", len(rows)) + b"".join(rows))
    boxes = [
        full(b"hdlr", struct.pack(">L4s", 0, b"pict") + bytes(13)),
        full(b"pitm", struct.pack(">H", len(items))),
        full(b"iinf", struct.pack(">H", len(items)) + b"".join(entries)),
        full(b"iref", b"".join(parts)),
        box(b"iprp", box(b"ipco", b"".join(properties)) + ipma),
    ]
    ftyp = box(b"ftyp", b"heic\0\0\0\0mif1heic")

    def meta(offset: int) -> bytes:
        places = struct.pack(">HHHHLL", 1, 0, 0, 1, offset, len(stream))
        for index, (item, _) in enumerate(items[1:]):
            places += struct.pack(">HHHHLL", item, 1, 0, 1, sum(map(len, heads[:index])), len(heads[index]))
        iloc = full(b"iloc", b"\x44\0" + struct.pack(">H", len(items)) + places, 1)
        return full(b"meta", b"".join([*boxes, iloc, box(b"idat", b"".join(heads))]))

    return ftyp + meta(len(ftyp) + len(meta(0)) + 8) + box(b"mdat", stream)


def test_a_grid_is_as_large_as_its_tiles() -> None:
    data = grids(256, (3, 4))
    assert decoded_pixels(data) == 3 * 4 * 256 * 256
    assert (decode(data, LIMITS).width, read_header(data, LIMITS).pixels) == (1024, 1024 * 768)


def test_a_picture_of_a_phone_is_as_large_as_it_is() -> None:
    header = read_header(grids(512, (6, 8), states=(4032, 3024)), LIMITS)
    assert header.pixels == 4032 * 3024


@pytest.mark.parametrize(
    ("side", "levels"),
    [(4096, [(10, 10)]), (64, [(16, 16), (16, 16)]), (64, [(8, 8), (8, 8), (8, 8)]), (512, [(30, 33)])],
)
def test_tiles_count_however_small_the_picture_states_to_be(side: int, levels: list[tuple[int, int]]) -> None:
    data = grids(side, *levels, states=(64, 64))
    assert len(data) < 2**16
    with pytest.raises(ImageTooLarge, match="counting its tiles"):
        read_header(data, LIMITS)
    with pytest.raises(ImageTooLarge, match="counting its tiles"):
        decode(data, LIMITS)


def test_a_grid_of_itself_ends_in_words() -> None:
    data = grids(64, (2, 2), (2, 2))
    inside = struct.pack(">HH4H", 2, 4, 1, 1, 1, 1)
    assert inside in data
    with pytest.raises(InvalidImage):
        read_header(data.replace(inside, struct.pack(">HH4H", 2, 4, 3, 3, 3, 3)), LIMITS)


def test_boxes_that_overlap_are_read_no_further_than_encoders_write() -> None:
    data = overlapping_heif(20)
    for read in (coding, decoded_pixels):
        with pytest.raises(ValueError, match="too many parts"):
            read(data)
    with pytest.raises(InvalidImage, match="damaged"):
        decode(data, LIMITS)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7, 0.8])
def test_tables_that_end_early_end_in_words(share: float) -> None:
    data = grids(64, (2, 2))
    with pytest.raises(InvalidImage):
        decode(data[: int(share * len(data))], LIMITS)


@pytest.mark.parametrize(("mode", "times"), [("RGB", 1), ("RGBA", 2)])
def test_what_an_encoder_writes_is_what_it_is_and_its_alpha(mode: str, times: int) -> None:
    assert decoded_pixels(saved(mode)) == times * 400 * 300


def saved(mode: str) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.new(mode, (400, 300), 3)).save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("coded", ["vvc1", "avc1", "j2k1", "unci", "x\ny\t"])
def test_a_sound_file_of_another_coding_is_not_called_damaged(coded: str) -> None:
    data = saved("RGB").replace(b"hvc1", coded.encode("ascii"))
    with pytest.raises(InvalidImage, match=r"is an HEIF picture coded as '.*', which is not read\. Send it as") as said:
        decode(data, LIMITS)
    assert ascii(coded) in str(said.value)


def test_a_broken_one_is() -> None:
    with pytest.raises(InvalidImage, match="damaged"):
        decode(saved("RGB")[:-300], LIMITS)


def test_a_grid_is_coded_as_its_tiles_are() -> None:
    assert coding(grids(64, (1, 2), (2, 1))) == "hvc1"


def test_a_library_without_a_decoder_for_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert formats._reads_hevc()
    monkeypatch.setattr(pillow_heif, "libheif_info", lambda: {"decoders": {"dav1d": "dav1d AV1 decoder"}})
    assert not formats._reads_hevc()
