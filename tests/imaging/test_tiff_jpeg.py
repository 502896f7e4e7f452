"""JPEGs inside TIFFs, whole streams as tifffile puts them there, whose tags may say otherwise than they do."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidImage
from service.imaging.decode import DecodeLimits, decode
from tests.hostile.bombs import tiff

LIMITS = DecodeLimits(10_000_000, 10_000_000, 50)
RGB, YCBCR = 2, 6


def colourful() -> Image.Image:
    y, x = np.mgrid[:64, :96]
    return Image.fromarray(np.stack([x * 2.6, y * 4, 128 + 60 * np.sin(x / 9)], -1).astype(np.uint8))


def stream(subsampling: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    colourful().save(buffer, "JPEG", quality=95, subsampling=subsampling, **options)
    return buffer.getvalue()


def around(jpeg: bytes, photometric: int, subsampling: tuple[int, int] | None) -> bytes:
    """A TIFF of one strip, which is a JPEG."""
    entries = [
        (256, 4, 1, 96),
        (257, 4, 1, 64),
        (258, 3, 3, 290),
        (259, 3, 1, 7),
        (262, 3, 1, photometric),
        (273, 4, 1, 300),
        (277, 3, 1, 3),
        (278, 4, 1, 64),
        (279, 4, 1, len(jpeg)),
    ]
    if subsampling:
        entries.append((530, 3, 2, subsampling[0] | subsampling[1] << 16))
    return tiff(entries).ljust(290, b"\0") + struct.pack("<3H", 8, 8, 8) + bytes(4) + jpeg


def pixels(data: bytes) -> Any:
    return np.asarray(decode(data, LIMITS).rgb).astype(int)


@pytest.mark.parametrize("stated", [None, (1, 1), (2, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("subsampling", [0, 1, 2], ids=["4:4:4", "4:2:2", "4:2:0"])
def test_the_stream_says_how_cb_and_cr_are_shared(subsampling: int, stated: tuple[int, int] | None) -> None:
    jpeg = stream(subsampling)
    expected = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(pixels(around(jpeg, YCBCR, stated)) - expected).max() <= 1


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_stream_of_ycbcr_that_is_called_rgb_is_refused(subsampling: int) -> None:
    """Others show it in wrong colours, 67 levels off."""
    with pytest.raises(InvalidImage, match=r"its tags say RGB, and the JPEG in it YCbCr\) is not read\. Convert it"):
        pixels(around(stream(subsampling), RGB, None))


def test_a_stream_of_rgb_that_is_called_ycbcr_is_refused() -> None:
    with pytest.raises(InvalidImage, match="its tags say YCbCr, and the JPEG in it RGB"):
        pixels(around(stream(0, keep_rgb=True), YCBCR, (1, 1)))


def test_a_stream_of_rgb_is_read_as_rgb() -> None:
    assert np.abs(pixels(around(stream(0, keep_rgb=True), RGB, None)) - np.asarray(colourful()).astype(int)).max() <= 6


def test_a_stream_that_says_nothing_is_what_the_tags_say() -> None:
    """libtiff writes such ones: no JFIF or Adobe segment."""
    jpeg = stream(0)
    assert jpeg[2:4] == b"\xff\xe0"
    bare = jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    expected = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(pixels(around(bare, YCBCR, (1, 1))) - expected).max() <= 1
    assert (
        np.abs(pixels(around(bare, RGB, None)) - expected).mean() > 50
    )  # as Y, Cb and Cr, which nothing speaks against


def test_what_libtiff_wrote_is_read() -> None:
    buffer = io.BytesIO()
    colourful().save(buffer, "TIFF", compression="jpeg", quality=95)
    assert np.abs(pixels(buffer.getvalue()) - np.asarray(colourful()).astype(int)).mean() < 3
