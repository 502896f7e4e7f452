"""AVIF and HEIC are read where their libraries are there, and hide no picture larger than they say."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging import formats
from service.imaging.av1 import coded_pixels
from service.imaging.decode import DecodeLimits, decode, read_header
from service.imaging.formats import FORMATS, suffixes
from tests.hostile.bombs import lying_avif, overlapping_avif

LIMITS = DecodeLimits(10**7, 10**7, 5)

needs_avif = pytest.mark.skipif(not FORMATS["AVIF"].is_there, reason="Pillow is built without AVIF")
needs_heif = pytest.mark.skipif(not FORMATS["HEIF"].is_there, reason="pillow-heif is not installed")


def heic(image: Image.Image, **options: Any) -> bytes:
    import pillow_heif

    stream = io.BytesIO()
    pillow_heif.from_pillow(image).save(stream, quality=95, **options)
    return stream.getvalue()


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


@needs_avif
@pytest.mark.parametrize(("orientation", "turn"), [(1, None), (3, "ROTATE_180"), (6, "ROTATE_90"), (8, "ROTATE_270")])
def test_avif(orientation: int, turn: str | None, photo: Any, save: Any) -> None:
    upright = photo(66, 48)
    exif = Image.Exif()
    exif[274] = orientation
    stored = upright.transpose(Image.Transpose[turn]) if turn else upright
    data = save(stored, "AVIF", quality=95, exif=exif.tobytes())
    image, header = decode(data, LIMITS), read_header(data, LIMITS)
    assert (image.format, image.rgb.size) == ("AVIF", (66, 48))
    assert (header.width, header.height, header.pixels) == (66, 48, 66 * 48)
    assert difference(image.rgb, upright) < 4


@needs_avif
def test_avif_over_white_and_the_first_of_several(save: Any) -> None:
    faint = save(Image.new("RGBA", (16, 16), (200, 40, 20, 51)), "AVIF", quality=100)
    assert np.abs(np.asarray(decode(faint, LIMITS).rgb, float) - (244, 212, 208)).max() <= 4
    pictures = [Image.new("RGB", (16, 16), (40 * index, 255 - 40 * index, 9)) for index in range(6)]
    moving = save(pictures[0], "AVIF", save_all=True, append_images=pictures[1:5], quality=95)
    assert np.abs(np.asarray(decode(moving, LIMITS).rgb, float) - (0, 255, 9)).max() <= 8
    with pytest.raises(ImageTooLarge, match="more frames than the limit of 5"):
        decode(save(pictures[0], "AVIF", save_all=True, append_images=pictures[1:]), LIMITS)


@needs_avif
def test_avif_says_what_its_streams_say(photo: Any, save: Any) -> None:
    plain = photo(301, 217)
    seen = plain.copy()
    seen.putalpha(100)
    assert coded_pixels(save(plain, "AVIF")) == 301 * 217
    assert coded_pixels(save(seen, "AVIF")) == 2 * 301 * 217
    assert coded_pixels(save(plain, "AVIF", save_all=True, append_images=[plain])) == 301 * 217


@needs_avif
def test_an_avif_larger_than_it_says_is_refused_by_its_header() -> None:
    data = lying_avif(2000)
    assert read_header(data, LIMITS).pixels == 2_000_000
    with pytest.raises(ImageTooLarge, match="2,000,000 pixels, counting its tiles, streams"):
        decode(data, DecodeLimits(10**7, 1_999_999, 5))


@needs_avif
def test_an_item_that_is_the_same_bytes_many_times_is_not_joined() -> None:
    assert coded_pixels(overlapping_avif(2, 1000)) == 64
    for pieces in (10, 60_000):
        with pytest.raises(InvalidImage, match="damaged") as said:
            read_header(overlapping_avif(pieces, 10_000), LIMITS)
        assert "overlap" in str(said.value.__cause__)


def test_sequence_headers_of_video_state_their_size() -> None:
    # Timing and a decoder model present, two operating points, one of a level with a tier: AV1 5.5.1, bit by bit.
    bits = "00000" + "1" + f"{1:032b}" + f"{30:032b}" + "1" + "1" + "1" + f"{9:05b}" + f"{1:032b}" + "0" * 10
    bits += "1" + f"{1:05b}"
    bits += "0" * 12 + f"{8:05b}" + "1" + "1" + "0" * 21 + "1" + f"{3:04b}"
    bits += "0" * 12 + f"{4:05b}" + "0" + "0"
    bits += f"{10:04b}" + f"{9:04b}" + f"{1919:011b}" + f"{799:010b}"
    header = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    unit = b"\x12\0" + bytes([1 << 3 | 2, len(header)]) + header
    chunks = struct.pack(">L4sLLL", 20, b"stco", 0, 1, 0)
    sizes = struct.pack(">L4sLLLL", 24, b"stsz", 0, 0, 1, len(unit))
    data = chunks + sizes
    for kind in (b"stbl", b"minf", b"mdia", b"trak", b"moov"):
        data = struct.pack(">L4s", 8 + len(data), kind) + data
    data = data.replace(struct.pack(">LL", 1, 0), struct.pack(">LL", 1, len(data)), 1)
    assert coded_pixels(data + unit) == 1920 * 800


@needs_heif
def test_heic(photo: Any) -> None:
    upright = photo(66, 48)
    exif = Image.Exif()
    exif[274] = 6
    for data in (heic(upright), heic(upright.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())):
        image = decode(data, LIMITS)
        assert (image.format, image.rgb.size) == ("HEIF", (66, 48))
        assert difference(image.rgb, upright) < 4
        assert read_header(data, LIMITS).pixels == 66 * 48
    with pytest.raises(InvalidImage, match="The HEIF picture is truncated or damaged"):
        decode(heic(upright)[:-200], LIMITS)
    assert {".heic", ".heif", ".avif"} <= suffixes()


@needs_heif
def test_heic_larger_than_it_says_is_refused(photo: Any) -> None:
    data = heic(photo(900, 900))
    assert struct.pack(">LL", 900, 900) in data
    with pytest.raises(InvalidImage, match="damaged"):
        decode(data.replace(struct.pack(">LL", 900, 900), struct.pack(">LL", 8, 8)), LIMITS)


@pytest.mark.parametrize(("name", "brand"), [("HEIF", b"heic"), ("AVIF", b"avif")])
def test_without_the_library_it_is_named(name: str, brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    without = formats.Format(FORMATS[name].open, FORMATS[name].suffixes, is_there=False)
    monkeypatch.setitem(FORMATS, name, without)
    data = struct.pack(">L4s4sL4s", 20, b"ftyp", b"mif1", 0, brand) + bytes(50)
    with pytest.raises(
        InvalidImage, match=r"pictures are not read here: the server.* Convert it to JPEG or PNG"
    ) as said:
        decode(data, LIMITS)
    assert ("pip install pillow-heif." in str(said.value)) == (name == "HEIF")
    assert not set(without.suffixes) & suffixes()


@given(data=st.binary(max_size=300))
def test_any_bytes_can_be_measured(data: bytes) -> None:
    for kind in (b"meta", b"moov"):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            assert coded_pixels(struct.pack(">L4s", 8 + len(data), kind) + data) >= 0
