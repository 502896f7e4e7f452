from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from service.imaging.decode import decode
from service.imaging.modes import to_rgb
from tests.imaging.odd_files import bmp, png

if TYPE_CHECKING:
    from service.imaging.decode import DecodeLimits

RED, WHITE = (200, 40, 20), (255, 255, 255)
# 25 % opaque red over white: 255 + (c - 255) / 4
FAINT = (241, 201, 196)


def palette(alpha: bool = False) -> Image.Image:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, *RED, 9, 9, 9])
    if alpha:
        image.info["transparency"] = bytes([255, 64, 255])
    return image


def numbers(values: list[list[float]], dtype: str) -> Image.Image:
    return Image.fromarray(np.array(values, dtype))


SAVED = [
    ("1", Image.new("1", (6, 4), 1), "PNG", WHITE),
    ("1 TIFF", Image.new("1", (6, 4), 0), "TIFF", (0, 0, 0)),
    ("L", Image.new("L", (6, 4), 77), "PNG", (77, 77, 77)),
    ("L JPEG", Image.new("L", (6, 4), 77), "JPEG", (77, 77, 77)),
    ("LA", Image.new("LA", (6, 4), (0, 51)), "PNG", (204, 204, 204)),
    ("P", palette(), "PNG", RED),
    ("P GIF", palette(), "GIF", RED),
    ("P BMP", palette(), "BMP", RED),
    ("P with alpha", palette(alpha=True), "PNG", FAINT),
    ("RGB", Image.new("RGB", (6, 4), RED), "PNG", RED),
    ("RGBA", Image.new("RGBA", (6, 4), (*RED, 64)), "PNG", FAINT),
    ("RGBA TIFF", Image.new("RGBA", (6, 4), (*RED, 64)), "TIFF", FAINT),
    ("RGBA WebP", Image.new("RGBA", (6, 4), (*RED, 64)), "WEBP", FAINT),
    ("32-bit BMP, whose fourth byte means nothing", Image.new("RGBA", (6, 4), (*RED, 64)), "BMP", RED),
    ("RGBX", Image.new("RGBX", (6, 4), (*RED, 0)), "TIFF", RED),
    ("CMYK JPEG", Image.new("CMYK", (6, 4), (0, 128, 255, 0)), "JPEG", (255, 127, 0)),
    ("CMYK TIFF", Image.new("CMYK", (6, 4), (0, 128, 255, 0)), "TIFF", (255, 127, 0)),
    ("YCbCr", Image.new("RGB", (6, 4), RED).convert("YCbCr"), "TIFF", RED),
    ("LAB", Image.new("LAB", (6, 4), (255, 128, 128)), "TIFF", WHITE),
    ("I;16", numbers([[0, 65535], [257, 32896]], "<u2"), "PNG", [[0, 255], [1, 128]]),
    ("I;16 TIFF", numbers([[0, 65535], [257, 32896]], "<u2"), "TIFF", [[0, 255], [1, 128]]),
    ("I", numbers([[0, 65535], [257, 32896]], "<i4"), "TIFF", [[0, 255], [1, 128]]),
    ("I as 8 bits", numbers([[0, 200], [3, 255]], "<i4"), "TIFF", [[0, 200], [3, 255]]),
    ("I beyond", numbers([[-100, 100_000], [-100, 49_950]], "<i4"), "TIFF", [[0, 255], [0, 128]]),
    ("F 0..1", numbers([[0, 1], [0.2, 0.6]], "<f4"), "TIFF", [[0, 255], [51, 153]]),
    ("F 0..255", numbers([[0, 200], [3, 255]], "<f4"), "TIFF", [[0, 200], [3, 255]]),
    ("F beyond", numbers([[-1, 1], [0, 0.5]], "<f4"), "TIFF", [[0, 255], [128, 191]]),
    ("F flat", numbers([[-5, -5], [-5, -5]], "<f4"), "TIFF", [[0, 0], [0, 0]]),
    ("F broken", numbers([[np.nan, np.inf], [0, 1]], "<f4"), "TIFF", [[0, 0], [0, 255]]),
]


@pytest.mark.parametrize(("image", "name", "expected"), [row[1:] for row in SAVED], ids=[row[0] for row in SAVED])
def test_every_mode_becomes_the_right_colour(
    image: Image.Image, name: str, expected: Any, save: Any, limits: DecodeLimits
) -> None:
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    picture = decode(save(image, name, **options), limits).rgb
    assert picture.mode == "RGB"
    pixels = np.asarray(picture, int)
    wanted = np.array(expected)
    wanted = np.broadcast_to(wanted, pixels.shape) if wanted.ndim == 1 else np.repeat(wanted[:, :, None], 3, axis=2)
    assert np.abs(pixels - wanted).max() <= 2


UNSAVED = [
    ("PA", palette().convert("PA"), RED),
    ("HSV", Image.new("RGB", (6, 4), RED).convert("HSV"), RED),
    ("La", Image.new("La", (6, 4), (0, 51)), (204, 204, 204)),
    ("RGBa", Image.new("RGBA", (6, 4), (*RED, 64)).convert("RGBa"), FAINT),
    ("I;16B", Image.new("I;16B", (6, 4), 65535), WHITE),
]


@pytest.mark.parametrize(("image", "expected"), [row[1:] for row in UNSAVED], ids=[row[0] for row in UNSAVED])
def test_modes_no_file_here_has(image: Image.Image, expected: tuple[int, int, int]) -> None:
    pixels = np.asarray(to_rgb(image), int)
    assert pixels.shape == (4, 6, 3)
    assert np.abs(pixels - expected).max() <= 4


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_with_one_transparent_colour_shows_white_there(mode: str, save: Any, limits: DecodeLimits) -> None:
    image = Image.new(mode, (2, 1), 0 if mode == "L" else (0, 0, 0))
    image.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    data = save(image, "PNG", transparency=0 if mode == "L" else (0, 0, 0))
    picture = decode(data, limits).rgb
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (90, 90, 90)]


def test_a_gif_with_a_transparent_entry_shows_white_there(save: Any, limits: DecodeLimits) -> None:
    image = palette()
    image.putpixel((0, 0), 2)
    picture = decode(save(image, "GIF", transparency=2), limits).rgb
    assert picture.getpixel((0, 0)) == WHITE
    assert picture.getpixel((3, 3)) == RED


SCENE = (np.mgrid[0:20, 0:30][1] * 8).astype(np.uint8)
COLOURS = np.stack([SCENE, SCENE.max() - SCENE, np.full_like(SCENE, 9)], axis=-1)


def shown(data: bytes, limits: DecodeLimits) -> Any:
    return np.asarray(decode(data, limits).rgb, int)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_pngs_transparent_grey_is_of_its_own_bits(bits: int, limits: DecodeLimits) -> None:
    most = 2**bits - 1
    numbers = SCENE.astype(np.uint32) * most // 255
    levels = np.rint(numbers * 255 / most)
    key = int(numbers[0, 11])
    expected = np.where(numbers == key, 255, levels)[..., None]
    assert np.abs(shown(png(numbers, bits, [key]), limits) - expected).max() <= 1


def test_a_pngs_transparent_colour_of_16_bits_is_compared_in_all_of_them(limits: DecodeLimits) -> None:
    wide = COLOURS.astype(np.uint32) * 257
    key = [int(value) for value in wide[0, 11]]
    hidden = shown(png(wide, 16, key), limits)
    assert (hidden[:, 11] == 255).all()
    assert np.abs(np.delete(hidden, 11, axis=1) - np.delete(COLOURS, 11, axis=1)).max() <= 1
    for off in (1, 256):  # another colour, though one of its bytes is the same in each sample
        assert np.abs(shown(png(wide, 16, [key[0] + off, *key[1:]]), limits) - COLOURS).max() <= 1
        grey = wide[..., 0]
        assert np.abs(shown(png(grey, 16, [key[0] + off]), limits) - SCENE[..., None]).max() <= 1


def test_a_bmp_whose_alpha_is_zero_everywhere_is_opaque(limits: DecodeLimits) -> None:
    assert (shown(bmp(COLOURS, 0), limits) == COLOURS).all()
    assert (shown(bmp(COLOURS, 255), limits) == COLOURS).all()
    partly = np.zeros_like(SCENE)
    partly[:5] = 51  # of 255: a fifth
    found = shown(bmp(COLOURS, partly), limits)
    assert (found[5:] == 255).all()
    assert np.abs(found[:5] - (255 + (COLOURS[:5].astype(int) - 255) / 5)).max() <= 1


def test_lab_is_converted_without_a_table(limits: DecodeLimits) -> None:
    """L*a*b* of 8 bits as TIFF has it: white is D50, a* and b* are signed."""
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3))
    linear = np.where(rgb <= 10.31, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    to_d50 = np.array([[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]])
    xyz = linear @ to_d50.T / [0.96422, 1, 0.82521]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), (903.3 * xyz + 16) / 116)
    lab = np.stack([2.55 * (116 * f[..., 1] - 16), 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    stored = Image.frombytes("LAB", (50, 40), np.rint(lab).astype(int).astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    stored.save(buffer, "TIFF")

    found = np.asarray(decode(buffer.getvalue(), limits).rgb).astype(int)

    # Rounding to 8 bits costs up to 16 levels where it is dark; Pillow by itself is 35 off, and 1.2 on average.
    assert np.abs(found - rgb).max() <= 18
    assert np.abs(found - rgb).mean() < 0.9
