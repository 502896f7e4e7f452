"""Thousands of damaged pictures, the same at every run: nothing but our errors leaves the decoder, and in silence."""

from __future__ import annotations

import io
import random
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging.decode import DecodeLimits, decode, read_header
from service.imaging.preprocess import PreprocessSpec, preprocess
from tests.imagenet import photos
from tests.imaging.odd_files import page, tiff
from tests.protocols.native.pictures import SAMPLES
from tests.toys import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

LIMITS = DecodeLimits(max_bytes=2**24, max_pixels=4_000_000, max_frames=50)
SPEC = PreprocessSpec("crop", 64, 64, 64)
MUTANTS = 250  # of each format

FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": lambda picture: encode(picture, "JPEG", exif=orientation()),
    "progressive JPEG": lambda picture: encode(picture, "JPEG", progressive=True, quality=60),
    "CMYK JPEG": lambda picture: encode(picture.convert("CMYK"), "JPEG"),
    "PNG": lambda picture: encode(picture, "PNG", exif=orientation()),
    "palette PNG": lambda picture: encode(picture.quantize(32), "PNG", transparency=3),
    "16-bit PNG": lambda picture: encode(picture.convert("I;16"), "PNG"),
    "APNG": lambda picture: encode(picture, "PNG", save_all=True, append_images=[picture.rotate(90)]),
    "GIF": lambda picture: encode(picture, "GIF", save_all=True, append_images=[picture.rotate(90)]),
    "BMP": lambda picture: encode(picture, "BMP"),
    "AVIF": lambda picture: encode(picture, "AVIF", speed=10, exif=orientation()),
    "WebP": lambda picture: encode(picture, "WEBP", exif=orientation()),
    "lossless WebP": lambda picture: encode(picture.convert("RGBA"), "WEBP", lossless=True),
    "animated WebP": lambda picture: encode(picture, "WEBP", save_all=True, append_images=[picture.rotate(90)]),
    "TIFF": lambda picture: encode(picture, "TIFF"),
    "LZW TIFF": lambda picture: encode(picture, "TIFF", compression="tiff_lzw"),
    "deflated TIFF": lambda picture: encode(picture.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF of 16 bits": lambda picture: tiff(page(np.asarray(picture, np.uint16) * 257, 2, compression=8)),
    "TIFF of floats in planes": lambda picture: tiff(
        page(np.asarray(picture, np.float32) / 255, 2, planar=True, tile=32, order=">"), order=">"
    ),
    "JPEG TIFF": lambda picture: encode(picture, "TIFF", compression="jpeg"),
    "fax": lambda picture: encode(picture.convert("1"), "TIFF", compression="group4"),
    "packed TIFF": lambda picture: encode(picture.convert("L"), "TIFF", compression="packbits"),
}


def orientation() -> bytes:
    exif = Image.Exif()
    exif[274] = 6
    return exif.tobytes()


def mutants(specimens: list[bytes], count: int, seed: str) -> Iterator[bytes]:
    """Flipped bits, cuts, pieces moved, doubled and taken from a sibling, and above all odd numbers in the header."""
    chance = random.Random(seed)
    for _ in range(count):
        data = bytearray(chance.choice(specimens))
        for _ in range(chance.randint(1, 4)):
            chance.choice((flip, flip_header, number, number, cut, splice, double))(data, specimens, chance)
        yield bytes(data)


def flip(data: bytearray, _: list[bytes], chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def flip_header(data: bytearray, _: list[bytes], chance: random.Random) -> None:
    data[chance.randrange(min(len(data), 400))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))


def number(data: bytearray, _: list[bytes], chance: random.Random) -> None:
    size, order = chance.choice((2, 4)), chance.choice(("little", "big"))
    value = chance.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, len(data))) % 2 ** (8 * size)
    start = chance.randrange(min(len(data), 400))
    data[start : start + size] = value.to_bytes(size, "big" if order == "big" else "little")


def cut(data: bytearray, _: list[bytes], chance: random.Random) -> None:
    if chance.random() < 0.5:
        del data[chance.randrange(8, max(9, len(data))) :]
    else:
        start = chance.randrange(8, max(9, len(data)))
        del data[start : start + chance.randrange(1, 200)]


def splice(data: bytearray, specimens: list[bytes], chance: random.Random) -> None:
    other = chance.choice(specimens)
    start = chance.randrange(len(other))
    place = chance.randrange(8, max(9, len(data)))
    data[place : place + chance.randrange(100)] = other[start : start + chance.randrange(1, 1000)]


def double(data: bytearray, _: list[bytes], chance: random.Random) -> None:
    start = chance.randrange(len(data))
    data[start:start] = data[start : start + chance.randrange(1, 500)]


def judge(data: bytes) -> str:
    """What became of it; anything but an error of ours is raised."""
    try:
        header = read_header(data, LIMITS)
        image = decode(data, LIMITS)
    except (InvalidImage, ImageTooLarge) as error:
        return error.code
    assert image.rgb.mode == "RGB"
    assert 1 <= image.width * image.height <= LIMITS.max_pixels
    assert image.rgb.width * image.rgb.height <= max(header.pixels, 1)
    assert preprocess(image, SPEC).pixels.shape == (64, 64, 3)
    return "read"


def judge_all(data: Iterator[bytes], capfd: pytest.CaptureFixture[str]) -> set[str]:
    before = list(warnings.filters)
    outcomes = {judge(each) for each in data}
    assert capfd.readouterr() == ("", "")
    assert warnings.filters == before
    return outcomes


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_samples_in_every_format(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    pictures = [Image.open(file).convert("RGB").resize((96, 64)) for file in sorted(SAMPLES.glob("*-*[a-z].png"))[:4]]
    specimens = [FORMATS[name](picture) for picture in pictures]
    assert {judge(specimen) for specimen in specimens} == {"read"}
    outcomes = judge_all(mutants(specimens, MUTANTS, name), capfd)
    assert {"read", "invalid_image"} <= outcomes, "mutations that destroy all or nothing test little"


@pytest.mark.imagenet
def test_damaged_photos(capfd: pytest.CaptureFixture[str]) -> None:
    files = [photo.path.read_bytes() for photo in photos()]
    assert {judge(file) for file in files} == {"read"}
    outcomes = judge_all(mutants(files, 1500, "photos"), capfd)
    assert {"read", "invalid_image"} <= outcomes


@pytest.mark.imagenet
def test_photos_cut_at_every_place(capfd: pytest.CaptureFixture[str]) -> None:
    smallest = min((photo.path.read_bytes() for photo in photos()), key=len)
    step = max(1, len(smallest) // 400)
    outcomes = judge_all((smallest[:end] for end in range(0, len(smallest), step)), capfd)
    assert outcomes == {"invalid_image"}


def test_a_picture_that_opens_still_opens_in_a_viewer() -> None:
    """The samples themselves are what the mutations begin with: they must be real pictures."""
    known_to_pillow = [make for name, make in FORMATS.items() if name != "TIFF of floats in planes"]
    for make in known_to_pillow:
        assert Image.open(io.BytesIO(make(Image.new("RGB", (8, 8))))).size == (8, 8)
