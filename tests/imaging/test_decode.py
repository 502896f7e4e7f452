from __future__ import annotations

import contextlib
import io
import struct
import time
import warnings
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from service.errors import ImageTooLarge, InvalidImage, ServiceError
from service.imaging.decode import DecodeLimits, decode, read_header
from tests.hostile.bombs import parted_tiff, png

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]

# EXIF orientation → how a camera would have stored an upright picture.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def with_orientation(upright: Image.Image, orientation: int, name: str, save: Callable[..., bytes]) -> bytes:
    operation = STORED[orientation]
    stored = upright if operation is None else upright.transpose(operation)
    exif = Image.Exif()
    exif[274] = orientation
    lossy: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    options = lossy.get(name, {})
    return save(stored, name, exif=exif.tobytes(), **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(100)))


def tiff(entries: list[tuple[int, int, int]], next_offset: int = 0, data: bytes = b"") -> bytes:
    """One IFD of (tag, type, value); ``data`` follows it."""
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + struct.pack("<I", next_offset) + data


def grey_tiff(width: int, height: int, **extra: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    return tiff([*tags, *((int(tag.removeprefix("t")), 4, value) for tag, value in extra.items())], data=bytes(100))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read(name: str, photo: Any, save: Any, limits: DecodeLimits) -> None:
    upright = photo(64, 48)
    data = save(upright, name)
    image = decode(data, limits)
    assert (image.width, image.height, image.format) == (64, 48, name)
    assert image.rgb.mode == "RGB"
    assert image.rgb.size == (64, 48)
    assert difference(image.rgb, upright) < 12


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", STORED)
def test_every_orientation_gives_the_same_upright_picture(
    name: str, orientation: int, photo: Any, save: Any, limits: DecodeLimits
) -> None:
    upright = photo(33, 21)
    image = decode(with_orientation(upright, orientation, name, save), limits)
    assert (image.width, image.height) == image.rgb.size == (33, 21)
    assert difference(image.rgb, upright) < (4 if name == "JPEG" else 1e-9)


def test_a_jpeg_is_decoded_as_pillow_decodes_it(photo: Any, save: Any, limits: DecodeLimits) -> None:
    """In full: at a half or a quarter of its size, as libjpeg offers, the model's probabilities would change."""
    data = save(photo(2003, 1501), "JPEG")
    assert decode(data, limits).rgb.tobytes() == Image.open(io.BytesIO(data)).tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 9), (8, 8), (15, 17), (1, 300)])
def test_tiny_jpegs_are_read(size: tuple[int, int], photo: Any, save: Any, limits: DecodeLimits) -> None:
    image = decode(save(photo(*size), "JPEG"), limits)
    assert (image.width, image.height) == image.rgb.size == size


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(60), b"Exif\0\0MM"]
)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_ignored(exif: bytes, name: str, photo: Any, save: Any, limits: DecodeLimits) -> None:
    image = decode(save(photo(20, 10), name, exif=exif), limits)
    assert (image.width, image.height) == (20, 10)


def test_an_orientation_out_of_range_is_ignored(photo: Any, save: Any, limits: DecodeLimits) -> None:
    exif = Image.Exif()
    exif[274] = 99
    assert decode(save(photo(20, 10), "JPEG", exif=exif.tobytes()), limits).rgb.size == (20, 10)


def test_warnings_about_metadata_do_not_refuse_a_picture(photo: Any, save: Any, limits: DecodeLimits) -> None:
    # An EXIF entry that points beyond the file, in a directory that claims 500 entries: Pillow warns.
    exif = b"Exif\0\0II*\0\x08\0\0\0\xf4\x01" + struct.pack("<HHII", 256, 4, 9, 4_000_000)
    data = save(photo(20, 10), "JPEG", exif=exif)
    with pytest.warns(UserWarning, match=r"Tag data larger|Corrupt EXIF"):
        Image.open(io.BytesIO(data)).getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, limits).width == 20


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.7", bytes(1000), b"RIFF0000WAVE"])
def test_what_is_no_picture_is_refused_with_advice(data: bytes, limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage, match=r"Send .* JPEG, PNG, WebP, GIF, BMP or TIFF file"):
        decode(data, limits)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1])
def test_a_truncated_picture_is_refused_with_advice(
    name: str, keep: float, photo: Any, save: Any, limits: DecodeLimits
) -> None:
    data = save(photo(200, 150), name)
    with pytest.raises(InvalidImage, match=f"The {name} picture is truncated or damaged"):
        decode(data[: int(len(data) * keep)], limits)


def test_too_many_bytes(limits: DecodeLimits) -> None:
    with pytest.raises(ImageTooLarge, match="has 101 bytes; the limit is 100"):
        decode(bytes(101), DecodeLimits(100, limits.max_pixels, 1))


@pytest.mark.parametrize("name", FORMATS)
def test_too_many_pixels(name: str, photo: Any, save: Any) -> None:
    data = save(photo(40, 30), name)
    assert decode(data, DecodeLimits(10**6, 1200, 1)).width == 40
    with pytest.raises(ImageTooLarge, match=r"1,200 pixels \(40 × 30\); the limit is 1,199"):
        decode(data, DecodeLimits(10**6, 1199, 1))


def webp_canvas(width: int, height: int) -> bytes:
    body = (
        b"WEBPVP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_header(width: int, height: int) -> bytes:
    return (
        b"\xff\xd8\xff\xc0\x00\x11\x08"
        + struct.pack(">HH", height, width)
        + b"\x03\x01\x11\0\x02\x11\0\x03\x11\0\xff\xda"
        + bytes(20)
    )


@pytest.mark.parametrize(
    "data",
    [
        png_header(60_000, 60_000),
        jpeg_header(60_000, 60_000),
        webp_canvas(16_383, 16_383),
        b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0`\xea`\xea\0\x02\0;",
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIIIII", 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        grey_tiff(60_000, 60_000),
    ],
    ids=["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"],
)
def test_a_bomb_is_refused_by_its_header(data: bytes, limits: DecodeLimits) -> None:
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(data, limits)


def test_pillows_own_limit_does_not_apply(limits: DecodeLimits) -> None:
    # 400 megapixels: Pillow alone would refuse them; with our limit above, the (broken) pixels are what is refused.
    with pytest.raises(InvalidImage):
        decode(png_header(20_000, 20_000)[:-30], DecodeLimits(10**6, 500_000_000, 1))


def test_a_tiff_that_lies_about_its_size_is_refused(limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage):
        decode(grey_tiff(3000, 3000), limits)


def test_a_picture_without_pixels_is_refused(limits: DecodeLimits) -> None:
    with pytest.raises(InvalidImage):
        decode(grey_tiff(0, 10), limits)


def animation(save: Any, name: str, frames: int, **options: Any) -> bytes:
    pictures = [Image.new("RGB", (8, 8), (index * 3 % 256, 255 - index, 9)) for index in range(frames)]
    result: bytes = save(pictures[0], name, save_all=True, append_images=pictures[1:], **options)
    return result


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_read_and_frames_are_limited(name: str, save: Any) -> None:
    data = animation(save, name, 6, **({"lossless": True} if name == "WEBP" else {}))
    image = decode(data, DecodeLimits(10**6, 10**6, 6))
    assert image.rgb.getpixel((4, 4)) == (0, 255, 9)
    with pytest.raises(ImageTooLarge, match="more frames than the limit of 5"):
        decode(data, DecodeLimits(10**6, 10**6, 5))


def test_a_gif_of_a_million_frames_is_refused_at_once(save: Any, limits: DecodeLimits) -> None:
    start = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    data = start + b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0" * 600_000 + b";"
    with pytest.raises(ImageTooLarge, match="parts"):
        decode(data, limits)


def test_a_tiff_whose_directories_form_a_circle_ends(limits: DecodeLimits) -> None:
    data = bytearray(grey_tiff(10, 10))
    data[8 + 2 + 7 * 12 : 8 + 2 + 7 * 12 + 4] = struct.pack("<I", 8)
    assert decode(bytes(data), limits).rgb.size == (10, 10)


def test_out_of_memory_says_so(photo: Any, save: Any, limits: DecodeLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(ImageTooLarge, match="memory"):
        decode(save(photo(8, 8), "PNG"), limits)


STARTS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\x20\0\0\0WEBP",
    b"",
]


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=300))
def test_any_bytes_raise_only_our_errors(start: bytes, rest: bytes) -> None:
    with contextlib.suppress(ServiceError):
        decode(start + rest, DecodeLimits(10**6, 10**6, 5))


@pytest.fixture(scope="session")
def specimens(photo: Any, save: Any) -> list[bytes]:
    exif = Image.Exif()
    exif[274] = 6
    picture = photo(24, 16)
    return [
        save(picture, "JPEG", exif=exif.tobytes()),
        save(picture.convert("CMYK"), "JPEG", progressive=True),
        save(picture, "PNG", exif=exif.tobytes()),
        save(picture.quantize(16), "PNG", transparency=3),
        save(picture, "WEBP", exif=exif.tobytes()),
        save(picture, "WEBP", lossless=True),
        animation(save, "GIF", 3),
        animation(save, "PNG", 3),
        save(picture, "BMP"),
        save(picture.convert("1"), "TIFF"),
        *(
            save(picture, "TIFF", compression=kind)
            for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ),
    ]


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_pictures_raise_only_our_errors(data: st.DataObject, specimens: list[bytes]) -> None:
    damaged = bytearray(data.draw(st.sampled_from(specimens)))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "drop"]))
        if kind == "set":
            damaged[position] = data.draw(st.integers(0, 255))
        elif kind == "cut" and position > 4:
            del damaged[position:]
        elif kind == "insert":
            damaged[position:position] = data.draw(st.binary(min_size=1, max_size=8))
        elif len(damaged) > 40:
            del damaged[position : position + 4]
    with contextlib.suppress(ServiceError):
        image = decode(bytes(damaged), DecodeLimits(10**6, 10**6, 5))
        assert image.rgb.mode == "RGB"
        assert image.width >= 1


@pytest.mark.parametrize("size", [(1, 4_000_000), (4_000_000, 1)], ids=["a column", "a row"])
def test_rows_count_for_the_room_they_take(size: tuple[int, int]) -> None:
    """A row takes 16 bytes and more besides its pixels, and what is wide may be turned by 90°."""
    data = png(*size)
    assert read_header(data, DecodeLimits(10_000_000, 16_000_000, 50)).pixels == 15_000_000
    with pytest.raises(ImageTooLarge, match=r"15,000,000 pixels, counting .* rows .*Send a smaller picture"):
        decode(data, DecodeLimits(10_000_000, 8_000_000, 50))


def test_ordinary_pictures_count_their_pixels(photo: Any, save: Any) -> None:
    for size in ((4000, 3000), (640, 480), (800, 8000)):
        assert read_header(png(*size), DecodeLimits(10_000_000, 16_000_000, 50)).pixels == size[0] * size[1]


def test_strips_of_a_tiff_are_counted_before_they_are_read() -> None:
    limits = DecodeLimits(20_000_000, 64_000_000, 50)
    began = time.thread_time()
    for data in (parted_tiff(1, 1_900_000, 1), parted_tiff(1000, 500, 1, tile=True)):
        with pytest.raises(ImageTooLarge, match=r"more than 100,000 parts\. Save it anew, with larger strips or tiles"):
            read_header(data, limits)
    assert time.thread_time() - began < 1
    assert read_header(parted_tiff(1, 10_000, 1), limits).pixels > 10_000  # Pillow has an object for each
