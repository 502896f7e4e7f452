"""Channels that models take besides colours: as the file has them, or the picture is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage
from service.imaging.decode import DecodeLimits, decode, read_header
from service.imaging.preprocess import PreprocessSpec, preprocess
from tests.imaging.odd_files import SHORT, page, tiff

LIMITS = DecodeLimits(max_bytes=10_000_000, max_pixels=1_000_000, max_frames=10)
LEVELS = np.random.default_rng(0).integers(0, 256, (6, 9, 5), dtype=np.uint8)


def saved(pixels: np.ndarray[Any, Any], kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def channels_of(data: bytes, count: int) -> np.ndarray[Any, Any]:
    image = decode(data, LIMITS, count)
    assert all(channel.size == image.rgb.size for channel in image.channels)
    return np.stack([np.asarray(channel) for channel in image.channels], axis=-1)


class TestSamplesOfATiff:
    @pytest.mark.parametrize("count", [2, 4, 5])
    @pytest.mark.parametrize("planar", [False, True], ids=["interleaved", "planes"])
    @pytest.mark.parametrize("order", "<>")
    @pytest.mark.parametrize(("kind", "factor"), [(np.uint8, 1), (np.uint16, 257)])
    def test_are_the_channels_in_their_order(
        self, count: int, planar: bool, order: str, kind: type[np.generic], factor: int
    ) -> None:
        samples = (LEVELS[..., :count].astype(np.uint32) * factor).astype(kind)
        data = tiff(page(samples, planar=planar, order=order), order=order)

        np.testing.assert_array_equal(channels_of(data, count), LEVELS[..., :count])

    @pytest.mark.parametrize("tile", [None, 16])
    def test_however_they_are_packed(self, tile: int | None) -> None:
        data = tiff(page(LEVELS, compression=8, tile=tile))

        np.testing.assert_array_equal(channels_of(data, 5), LEVELS)

    def test_behind_colours(self) -> None:
        """Red, green, blue and infrared: nothing is laid over white by it."""
        data = tiff(page(LEVELS[..., :4], 2, t338=(SHORT, [0])))

        np.testing.assert_array_equal(channels_of(data, 4), LEVELS[..., :4])

    def test_are_turned_upright(self) -> None:
        data = tiff(page(LEVELS, t274=(SHORT, [6])))

        np.testing.assert_array_equal(channels_of(data, 5), np.rot90(LEVELS, -1))

    def test_are_scaled_by_their_type_and_not_by_what_the_picture_has(self) -> None:
        """Two dark pictures of one scene are not made equally bright."""
        dark = tiff(page(np.full((4, 4, 5), 2570, np.uint16)))

        assert (channels_of(dark, 5) == 10).all()


class TestTransparency:
    @pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})])
    def test_is_the_fourth_channel_behind_colours_as_they_are_stored(self, kind: str, options: dict[str, Any]) -> None:
        np.testing.assert_array_equal(channels_of(saved(LEVELS[..., :4], kind, **options), 4), LEVELS[..., :4])

    def test_is_the_second_behind_grey(self) -> None:
        np.testing.assert_array_equal(channels_of(saved(LEVELS[..., :2]), 2), LEVELS[..., :2])

    def test_of_a_palette(self) -> None:
        palette = Image.fromarray(LEVELS[..., 0] % 3, "P")
        palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
        stream = io.BytesIO()
        palette.save(stream, "PNG", transparency=1)
        found = channels_of(stream.getvalue(), 4)

        np.testing.assert_array_equal(found[..., 0], LEVELS[..., 0] % 3 * 30 + 10)
        np.testing.assert_array_equal(found[..., 3], np.where(LEVELS[..., 0] % 3 == 1, 0, 255))


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        (saved(LEVELS[..., :3]), 4, "PNG picture has colours without transparency. Send a TIFF of 4"),
        (saved(LEVELS[..., :4]), 5, "has colours and transparency. Send a TIFF of 5 samples per pixel, unsigned"),
        (saved(LEVELS[..., :4]), 2, "has colours and transparency.*, or a grey PNG with transparency"),
        (saved(LEVELS[..., 0]), 2, "has grey without transparency"),
        (saved(LEVELS[..., :3], "JPEG"), 4, "JPEG picture has no transparency.*, or a PNG or WebP with"),
        (saved(LEVELS[..., :3], "BMP"), 6, "BMP picture has colours alone"),
        (tiff(page(LEVELS)), 4, "TIFF picture has 5 × 8-bit samples"),
        (tiff(page(LEVELS[..., :3], 2)), 4, "TIFF picture has 3 × 8-bit samples, RGB"),
        (tiff(page(LEVELS.astype(np.float32))), 5, "has 5 × 32-bit floating-point samples"),
        (tiff(page(LEVELS.astype(np.int16))), 5, "has 5 × 16-bit signed samples"),
    ],
)
def test_a_picture_of_others_is_refused_from_its_header(data: bytes, count: int, message: str) -> None:
    for read in (read_header, decode):
        with pytest.raises(InvalidImage, match=rf"^The model takes {count} channels, and this .*{message}"):
            read(data, LIMITS, count)


def test_they_count_for_the_room_that_they_take() -> None:
    data = tiff(page(np.zeros((100, 100, 64), np.uint16), compression=8))
    alone = read_header(data, LIMITS).pixels
    counted = read_header(data, LIMITS, 64).pixels - alone

    assert counted * 16 >= 100 * 100 * 64 * (2 + 2)  # as they are unpacked, and twice as levels
    with pytest.raises(ImageTooLarge, match="counting all its channels"):
        read_header(data, DecodeLimits(10_000_000, alone, 10), 64)


class TestInput:
    SPEC = PreprocessSpec("crop", 4, 4, 6, mean=(0.5,) * 5, std=(0.5,) * 5, channels=5)

    @pytest.mark.parametrize("mode", ["crop", "squash", "pad"])
    def test_each_channel_is_resized_as_grey_pictures_are(self, mode: Any) -> None:
        resize = {"resize": 6} if mode == "crop" else {}
        spec, grey = (
            PreprocessSpec(mode, 4, 7, **resize, mean=(0.5,) * count, std=(0.5,) * count, channels=count)  # type: ignore[arg-type]
            for count in (5, 1)
        )
        found = preprocess(decode(tiff(page(LEVELS)), LIMITS, 5), spec)

        assert (found.pixels.shape, found.pixels.flags.c_contiguous) == ((4, 7, 5), True)
        for index in range(5):
            alone = preprocess(decode(saved(LEVELS[..., index]), LIMITS), grey)
            np.testing.assert_array_equal(found.pixels[..., index : index + 1], alone.pixels)
            assert found.geometry == alone.geometry

    @pytest.mark.parametrize("channels", [0, 65])
    def test_there_are_1_to_64(self, channels: int) -> None:
        with pytest.raises(ValueError, match="channels must be 1 to 64"):
            PreprocessSpec(channels=channels, mean=(0,) * channels, std=(1,) * channels)

    def test_four_have_no_order(self) -> None:
        with pytest.raises(ValueError, match="an order is of three channels, not of 4"):
            PreprocessSpec(channels=4, mean=(0,) * 4, std=(1,) * 4, order="BGR")
