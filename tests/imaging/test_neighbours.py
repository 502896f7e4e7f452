"""Files that programs write now and then: each shows the picture that was put in, which is known pixel by pixel."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidImage
from service.imaging.decode import decode
from tests.hostile.bombs import chunk
from tests.imaging.odd_files import SHORT, page, tiff
from tests.imaging.test_tiff import GREY, LIMITS, RGB, assert_shows

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT, WIDTH = GREY.shape
ALPHA = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
INDEX = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH))  # of a palette, modulo its length


def over_white(picture: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    opacity = alpha.reshape(*alpha.shape[:2], 1) / 255
    colours = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, -1)
    return np.rint(colours * opacity + 255 * (1 - opacity)).astype(int)


class TestPng:
    """Of the kinds that no editor here writes."""

    @staticmethod
    def of(rows: list[bytes], bits: int, colour: int, *before: bytes, behind: bytes = b"") -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour, 0, 0, 0))
        pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + behind + chunk(b"IEND")

    @staticmethod
    def rows(samples: NDArray[Any], bits: int) -> list[bytes]:
        digits = samples.reshape(HEIGHT, -1)[..., None] >> np.arange(bits - 1, -1, -1) & 1
        return [row.tobytes() for row in np.packbits(digits.reshape(HEIGHT, -1).astype(np.uint8), axis=1)]

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_grey_of_few_bits_reaches_from_black_to_white(self, bits: int) -> None:
        levels = INDEX % 2**bits
        assert_shows(self.of(self.rows(levels, bits), bits, 0), levels * 255 // (2**bits - 1))

    @pytest.mark.parametrize("bits", [1, 2, 4, 8])
    def test_a_palette_whose_colours_are_transparent_by_half(self, bits: int) -> None:
        count = 2**bits
        palette = (np.arange(3 * count) * 37 % 256).astype(np.uint8).reshape(count, 3)
        opacity = np.array([0] + [128] * (count - 1), np.uint8)
        tables = chunk(b"PLTE", palette.tobytes()), chunk(b"tRNS", opacity.tobytes())
        expected = over_white(palette[INDEX % count], opacity[INDEX % count])
        assert_shows(self.of(self.rows(INDEX % count, bits), bits, 3, *tables), expected, within=1)

    @pytest.mark.parametrize("colours", [GREY, RGB], ids=["grey", "RGB"])
    def test_16_bits_with_alpha(self, colours: NDArray[np.uint8]) -> None:
        samples = np.dstack([colours, ALPHA]).astype(np.uint32) * 257
        data = self.of(self.rows(samples, 16), 16, 4 if colours.ndim == 2 else 6)
        assert_shows(data, over_white(colours, ALPHA), within=1)

    def test_the_first_picture_of_an_animation_that_it_is_no_part_of(self) -> None:
        frame = struct.pack(">IIIIIHHBB", 0, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0)
        other = struct.pack(">I", 1) + zlib.compress(b"".join(b"\0" + row for row in self.rows(255 - RGB, 8)))
        behind = chunk(b"fcTL", frame) + chunk(b"fdAT", other)
        assert_shows(self.of(self.rows(RGB, 8), 8, 2, chunk(b"acTL", struct.pack(">II", 1, 0)), behind=behind), RGB)

    def test_a_gamma_is_not_applied(self) -> None:
        """As PyTorch's and OpenCV's readers do it, with which classifiers are trained."""
        assert_shows(self.of(self.rows(RGB, 8), 8, 2, chunk(b"gAMA", struct.pack(">I", 100_000))), RGB)


class TestBmp:
    @staticmethod
    def of(pixels: NDArray[Any], bits: int, masks: tuple[int, ...] = (), *, size: int = 40, top: bool = False) -> bytes:
        rows = pixels if top else pixels[::-1]
        stored = rows.reshape(HEIGHT, -1)
        lines = b"".join(line.tobytes().ljust(-(-WIDTH * bits // 32) * 4, b"\0") for line in stored)
        info = struct.pack("<LllHHLL", size, WIDTH, -HEIGHT if top else HEIGHT, 1, bits, 3 if masks else 0, len(lines))
        table = struct.pack(f"<{len(masks)}L", *masks)
        head = (info + bytes(16) + table).ljust(max(size, 40 + len(table)), b"\0")
        return b"BM" + struct.pack("<LHHL", 14 + len(head) + len(lines), 0, 0, 14 + len(head)) + head + lines

    def test_5_6_and_5_bits(self) -> None:
        red, green, blue = (RGB[..., i].astype(np.uint16) >> (2 if i == 1 else 3) for i in range(3))
        data = self.of((red << 11 | green << 5 | blue).astype("<u2"), 16, (0xF800, 0x7E0, 0x1F))
        assert_shows(data, np.stack([red * 255 / 31, green * 255 / 63, blue * 255 / 31], -1).astype(int), within=1)

    def test_5_bits_each(self) -> None:
        red, green, blue = (RGB[..., i].astype(np.uint16) >> 3 for i in range(3))
        data = self.of((red << 10 | green << 5 | blue).astype("<u2"), 16)
        assert_shows(data, np.stack([red, green, blue], -1) * 255 // 31, within=1)

    def test_from_top_to_bottom(self) -> None:
        assert_shows(self.of(np.ascontiguousarray(RGB[..., ::-1]), 24, top=True), RGB)

    def test_a_fourth_byte_that_nothing_calls_alpha_is_none(self) -> None:
        assert_shows(self.of(np.dstack([RGB[..., ::-1], ALPHA]), 32), RGB)

    def test_a_mask_for_alpha_makes_it_that(self) -> None:
        data = self.of(np.dstack([RGB[..., ::-1], ALPHA]), 32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), size=124)
        assert_shows(data, over_white(RGB, ALPHA), within=1)

    def test_of_os2(self) -> None:
        lines = b"".join(line.tobytes().ljust(-(-WIDTH * 24 // 32) * 4, b"\0") for line in RGB[::-1, :, ::-1])
        head = struct.pack("<LHHHH", 12, WIDTH, HEIGHT, 1, 24)
        assert_shows(b"BM" + struct.pack("<LHHL", 26 + len(lines), 0, 0, 26) + head + lines, RGB)

    def test_channels_in_an_order_that_is_not_read_are_named(self) -> None:
        data = self.of(np.dstack([RGB, ALPHA]), 32, (0xFF, 0xFF00, 0xFF0000))
        with pytest.raises(InvalidImage, match=r"This kind of BMP \(bitfields layout\) is not read"):
            decode(data, LIMITS)


def test_a_gif_whose_first_frame_is_smaller_than_its_canvas_lies_on_the_background() -> None:
    canvas = np.full((6, 8), 0, np.uint8)
    canvas[1:3, 2:5] = 1
    palette = bytes([10, 20, 30, 200, 100, 50]) + bytes(6)
    codes = [4, *(code for _ in range(6) for code in (1, 4)), 5]  # cleared before each pixel: 3 bits always
    digits = [code >> bit & 1 for code in codes for bit in range(3)]
    data = np.packbits(digits, bitorder="little").tobytes()
    gif = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0xF1, 0, 0) + palette
    gif += b"," + struct.pack("<HHHHB", 2, 1, 3, 2, 0) + b"\2" + bytes([len(data)]) + data + b"\0;"
    assert_shows(gif, np.array([[10, 20, 30], [200, 100, 50]])[canvas])


class TestTiff:
    SEPARATED, PALETTE, INKS = 5, 3, np.dstack([255 - RGB, np.zeros_like(GREY)])

    def test_four_inks_of_16_bits(self) -> None:
        assert_shows(tiff(page(self.INKS.astype(np.uint16) * 257, self.SEPARATED)), RGB, within=1)

    def test_black_ink_alone(self) -> None:
        assert_shows(tiff(page(np.dstack([np.zeros_like(RGB), 255 - GREY]), self.SEPARATED)), GREY, within=1)

    def test_colours_that_alpha_was_multiplied_into(self) -> None:
        premultiplied = np.rint(RGB * (ALPHA[..., None] / 255)).astype(np.uint8)
        data = tiff(page(np.dstack([premultiplied, ALPHA]), 2, t338=(SHORT, [1])))
        assert_shows(data, over_white(RGB, ALPHA), within=1)

    def test_white_is_zero_beside_alpha(self) -> None:
        data = tiff(page(np.dstack([255 - GREY, ALPHA]), 0, t338=(SHORT, [2])))
        assert_shows(data, over_white(GREY, ALPHA), within=1)

    def test_a_palette_of_16_bits_is_named(self) -> None:
        colours = np.arange(3 * 256).astype(int).tolist()
        with pytest.raises(InvalidImage, match=r"This kind of TIFF \(1 × 16-bit samples, palette, uncompressed\)"):
            decode(tiff(page(GREY.astype(np.uint16), self.PALETTE, t320=(SHORT, colours))), LIMITS)

    @pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
    def test_faxes(self, compression: str) -> None:
        lines = (INDEX // 5 % 2 * 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(lines).convert("1").save(buffer, "TIFF", compression=compression)
        assert_shows(buffer.getvalue(), lines)

    @pytest.mark.parametrize("below", [True, False], ids=["below the page", "as a page of its own"])
    def test_a_pyramid_is_its_base(self, below: bool) -> None:
        smaller = page(RGB[::2, ::2], 2, tile=16, t254=(4, [1]))
        base = page(RGB, 2, tile=16, below=[smaller] if below else [])
        assert_shows(tiff(base) if below else tiff(smaller, base), RGB)
