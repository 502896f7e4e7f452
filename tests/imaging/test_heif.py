"""How much is decoded of an HEIF that is made of tiles: grids built by hand around a tile that an encoder wrote."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging import formats
from service.imaging.decode import DecodeLimits, decode, read_header
from service.imaging.formats import FORMATS
from service.imaging.headers import sniff
from service.imaging.heif import coding, decoded_pixels
from service.imaging.iso_media import Boxes
from tests.hostile.bombs import overlapping_heif
from tests.toys import encode

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


def branded_as(data: bytes, *brands: bytes) -> bytes:
    """Return the file with these brands alone, the last one as often as there is room."""
    size = int.from_bytes(data[:4], "big")
    body = brands[0] + bytes(4) + b"".join(brands[1:] or brands)
    return data[:8] + (body + brands[-1] * size)[: size - 8] + data[size:]


FOREIGN = [b"mif1", b"mif2", b"miaf", b"msf1", b"vvic", b"avci", b"jpeg", b"j2ki", b"1pic", b"mp42"]


@pytest.mark.parametrize("brand", FOREIGN)
def test_a_picture_is_known_by_its_coding_whatever_its_brand(brand: bytes) -> None:
    hevc = branded_as(saved("RGB"), brand)
    image = decode(hevc, LIMITS)
    assert (image.format, image.rgb.size) == ("HEIF", (400, 300))
    assert image.rgb.getpixel((200, 150)) == decode(saved("RGB"), LIMITS).rgb.getpixel((200, 150))
    for coded in (b"vvc1", b"avc1", b"jpeg", b"j2k1"):
        with pytest.raises(InvalidImage, match=f"is an HEIF picture coded as '{coded.decode()}', which is not read"):
            decode(hevc.replace(b"hvc1", coded), LIMITS)
    if FORMATS["AVIF"].is_there:
        avif = branded_as(encode(Image.new("RGB", (40, 30), (9, 99, 200)), "AVIF"), brand)
        assert decode(avif, LIMITS).format == "AVIF"


def test_a_coding_that_is_not_read_is_named_without_the_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    without = formats.Format(FORMATS["HEIF"].open, FORMATS["HEIF"].suffixes, is_there=False)
    monkeypatch.setitem(FORMATS, "HEIF", without)
    with pytest.raises(InvalidImage, match="coded as 'vvc1', which is not read"):
        decode(branded_as(saved("RGB"), b"mif1").replace(b"hvc1", b"vvc1"), LIMITS)


@pytest.mark.parametrize("brand", [b"mif1", b"miaf", b"mp42"])
def test_a_grid_without_its_tiles_is_an_hevc_picture_unless_it_says_avif(brand: bytes) -> None:
    alone = branded_as(grids(64, (2, 2)), brand).replace(b"dimg", b"free")
    assert (coding(alone), sniff(alone)) == ("grid", "HEIF")
    assert sniff(branded_as(alone, b"avif")) == "AVIF"


def test_a_picture_with_a_video_beside_it_is_a_picture() -> None:
    assert sniff(branded_as(saved("RGB"), b"mp42") + box(b"moov", bytes(40))) == "HEIF"


@pytest.mark.parametrize("brand", FOREIGN[:-2])
def test_a_picture_that_is_cut_short_is_no_video(brand: bytes) -> None:
    data = branded_as(saved("RGB"), brand)
    start = int.from_bytes(data[:4], "big")
    for length in (12, 16, start, start + 9, start + 40, start + 200, len(data) - 300):
        with pytest.raises(InvalidImage, match="The HEIF picture is truncated or damaged"):
            decode(data[:length], LIMITS)


@pytest.mark.parametrize("length", [8, 9, 11])
def test_a_file_that_ends_before_its_brand_is_cut_short(length: int) -> None:
    with pytest.raises(InvalidImage, match=f"The file ends after {length} bytes, truncated. Check that the whole"):
        decode(saved("RGB")[:length], LIMITS)


VIDEOS = {
    "a video": branded_as(box(b"ftyp", bytes(20)), b"mp42", b"isom") + box(b"mdat", b"x") + box(b"moov", bytes(40)),
    "with metadata": box(b"ftyp", b"isom\0\0\0\0mp41")
    + full(b"meta", full(b"hdlr", struct.pack(">L4s", 0, b"mdir") + bytes(13)) + full(b"pitm", b"\0\1"))
    + box(b"moov", bytes(40)),
    "of a picture's brand": box(b"ftyp", b"msf1\0\0\0\0miaf") + box(b"moov", bytes(40)),
    "and nothing else": box(b"ftyp", b"qt  \0\0\0\0"),
}


@pytest.mark.parametrize("data", VIDEOS.values(), ids=list(VIDEOS))
def test_a_video_is_called_one(data: bytes) -> None:
    with pytest.raises(InvalidImage, match="The file is a video, which is not read"):
        decode(data, LIMITS)


def test_a_picture_without_a_meta_box_is_not_called_a_video() -> None:
    short = box(b"ftyp", b"mif3" + b"heic") + box(b"mini", bytes(30))
    with pytest.raises(InvalidImage, match="The file is an HEIF picture of the low-overhead form, which is not read"):
        decode(short, LIMITS)


def sized(kind: bytes, size: int, content: bytes = b"") -> bytes:
    return struct.pack(">L4s", size, kind) + content


HOSTILE = {
    "meta of 4 gigabytes": sized(b"meta", 2**32 - 1, bytes(40)),
    "meta of 2^64 bytes": sized(b"meta", 1, struct.pack(">Q", 2**64 - 1) + bytes(40)),
    "meta without its long size": sized(b"meta", 1),
    "meta smaller than its head": sized(b"meta", 3, bytes(40)),
    "handler at the end": full(b"meta", sized(b"hdlr", 8)),
    "items of no length": full(b"meta", full(b"hdlr", b"\0\0\0\0pict") + sized(b"pitm", 8) + sized(b"iinf", 8)),
    "boxes without end": b"\0\0\0\x08free" * 200_000,
    "items without end": full(
        b"meta", full(b"hdlr", b"\0\0\0\0pict") + full(b"pitm", b"\0\1") + full(b"iinf", b"\0\1" + bytes(800_000))
    ),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=list(HOSTILE))
def test_absurd_boxes_end_in_words(content: bytes) -> None:
    for brand, words in ((b"mif1", "HEIF picture is truncated or damaged"), (b"mp42", "is a video")):
        data = box(b"ftyp", brand + bytes(4) + brand) + content
        with pytest.raises(InvalidImage, match=words):
            decode(data, LIMITS)
        with pytest.raises(InvalidImage, match=words):
            read_header(data, LIMITS)


@given(data=st.binary(max_size=300))
def test_any_tables_can_be_asked_for_a_picture(data: bytes) -> None:
    start = box(b"ftyp", b"mif1\0\0\0\0mif1")
    for content in (data, full(b"meta", data), full(b"meta", full(b"hdlr", b"\0\0\0\0pict") + data)):
        assert sniff(start + content) in {"HEIF", "AVIF", None}


def test_a_broken_one_is() -> None:
    with pytest.raises(InvalidImage, match="damaged"):
        decode(saved("RGB")[:-300], LIMITS)


def test_a_grid_is_coded_as_its_tiles_are() -> None:
    assert coding(grids(64, (1, 2), (2, 1))) == "hvc1"


def test_a_library_without_a_decoder_for_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert formats._reads_hevc()
    monkeypatch.setattr(pillow_heif, "libheif_info", lambda: {"decoders": {"dav1d": "dav1d AV1 decoder"}})
    assert not formats._reads_hevc()
