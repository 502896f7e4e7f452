from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from service.imaging.colormaps import colormap
from service.imaging.encode import EncodedImage, encode_grey, encode_indexed, encode_photo, indexed
from service.vocabulary import ImageFormat

LEVELS = np.arange(256, dtype=np.uint8).reshape(8, 32)
PALETTE = colormap("turbo").palette
COLOURS = np.frombuffer(PALETTE, np.uint8).reshape(8, 32, 3)


def opened(encoded: EncodedImage) -> Image.Image:
    image = Image.open(io.BytesIO(encoded.data))
    assert image.size == (encoded.width, encoded.height)
    assert Image.MIME[image.format or ""] == encoded.media_type
    return image


@pytest.mark.parametrize("image_format", ["auto", "png", "webp"])
def test_indexed_pictures_lose_nothing_and_are_transparent_at_0(image_format: ImageFormat) -> None:
    image = opened(encode_indexed(indexed(LEVELS, PALETTE), image_format)).convert("RGBA")
    pixels = np.asarray(image)
    assert (pixels.reshape(-1, 4)[1:, :3] == COLOURS.reshape(-1, 3)[1:]).all()
    assert (pixels[..., 3] == np.where(LEVELS == 0, 0, 255)).all()


def test_a_palette_png_has_one_transparency_entry() -> None:
    data = encode_indexed(indexed(LEVELS, PALETTE), "auto").data
    position = data.index(b"tRNS")
    assert data[position - 4 : position + 5] == b"\0\0\0\x01tRNS\0"


def test_an_indexed_jpeg_is_black_at_0() -> None:
    image = opened(encode_indexed(indexed(np.zeros((16, 16), np.uint8), PALETTE), "jpeg"))
    assert image.mode == "RGB"
    assert np.asarray(image).max() <= 2


@pytest.mark.parametrize(("image_format", "tolerance"), [("auto", 0), ("png", 0), ("webp", 0), ("jpeg", 12)])
def test_grey(image_format: ImageFormat, tolerance: int) -> None:
    image = opened(encode_grey(LEVELS, image_format))
    assert np.abs(np.asarray(image.convert("L"), int) - LEVELS).max() <= tolerance


@pytest.mark.parametrize(
    ("image_format", "kind"), [("auto", "JPEG"), ("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]
)
def test_photos(image_format: ImageFormat, kind: str) -> None:
    image = opened(encode_photo(np.full((9, 5, 3), (200, 100, 50), np.uint8), image_format))
    assert image.format == kind
    assert image.size == (5, 9)
    assert np.abs(np.asarray(image, int) - (200, 100, 50)).max() <= 3


def test_repr_does_not_print_the_bytes() -> None:
    assert len(repr(encode_grey(LEVELS, "auto"))) < 100
