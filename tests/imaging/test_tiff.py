"""TIFFs of every layout show the picture that was put in, and the right one of several."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import ImageTooLarge, InvalidImage, ServiceError
from service.imaging.decode import DecodeLimits, decode, read_header
from tests.imaging.odd_files import BYTE, DOUBLE, LONG, SHORT, TEXT, packed, page, tiff, with_pixels_last

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LIMITS = DecodeLimits(10**7, 10**7, 50)


def scene(width: int = 37, height: int = 29) -> NDArray[np.uint8]:
    """No symmetry, black and white among its values, (h, w, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x * 3 + y * 5) % 256], axis=-1)
    return rgb.astype(np.uint8)


RGB = scene()
GREY = RGB[..., 2]


def shown(data: bytes) -> NDArray[np.int64]:
    return np.asarray(decode(data, LIMITS).rgb, np.int64)


def assert_shows(data: bytes, expected: NDArray[Any], within: int = 0) -> None:
    wanted = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
    found = shown(data)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= within


# Of 8-bit levels, the samples of each type that mean the same.
TYPES: dict[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
    "u1": lambda levels: levels,
    "u2": lambda levels: levels.astype(np.uint16) * 257,
    "u4": lambda levels: levels.astype(np.uint32) * 16_843_009,
    "i1": lambda levels: (levels.astype(np.int16) - 128).astype(np.int8),
    "i2": lambda levels: (levels.astype(np.int32) * 257 - 32_768).astype(np.int16),
    "i4": lambda levels: (levels.astype(np.int64) * 16_843_009 - 2**31).astype(np.int32),
    "f2": lambda levels: (levels / 255).astype(np.float16),
    "f4": lambda levels: (levels / 255).astype(np.float32),
    "f8": lambda levels: levels / 255,
    "f4 to 255": lambda levels: levels.astype(np.float32),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("shape", ["strip", "tiles", "planes", "planes in tiles", "deflated"])
def test_every_type_of_sample_in_every_order(name: str, order: str, shape: str) -> None:
    layouts: dict[str, dict[str, Any]] = {
        "strip": {},
        "tiles": {"tile": 16},
        "planes": {"planar": True},
        "planes in tiles": {"planar": True, "tile": 16},
        "deflated": {"compression": 8},
    }
    assert_shows(tiff(page(TYPES[name](RGB), 2, order=order, **layouts[shape]), order=order), RGB)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", TYPES)
def test_white_may_be_zero(name: str, order: str) -> None:
    assert_shows(tiff(page(TYPES[name](255 - GREY), 0, order=order), order=order), GREY, within=1)


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 9, 10, 11, 12, 14, 15])
def test_any_number_of_bits(bits: int, photometric: int) -> None:
    numbers = GREY.astype(np.uint32) * (2**bits - 1) // 255
    levels = np.rint(numbers * 255 / (2**bits - 1))
    assert_shows(tiff(packed(numbers, bits, photometric)), levels if photometric else 255 - levels, within=1)


def test_rgb_of_four_bits() -> None:
    assert_shows(tiff(packed(RGB >> 4, 4, 2)), (RGB >> 4) * 17)


@pytest.mark.parametrize("name", ["u1", "u2", "u4", "f2", "f4", "f8"])
@pytest.mark.parametrize("planar", [False, True])
def test_alpha_of_every_width_lies_over_white(name: str, planar: bool) -> None:
    alpha = np.full(GREY.shape, 255, np.uint8)
    alpha[:9], alpha[9:15] = 51, 0
    opacity = alpha[..., None] / 255
    expected = np.rint(RGB * opacity + 255 * (1 - opacity))
    for extra in (2, 1):
        colours = RGB if extra == 2 else np.rint(RGB * opacity).astype(np.uint8)
        samples = TYPES[name](np.dstack([colours, alpha]))
        assert_shows(tiff(page(samples, 2, planar=planar, t338=(SHORT, [extra]))), expected, within=1)
        grey = TYPES[name](np.dstack([colours[..., 2], alpha]))
        assert_shows(tiff(page(grey, 1, planar=planar, t338=(SHORT, [extra]))), expected[..., 2], within=1)
    inverted = TYPES[name](np.dstack([255 - GREY, alpha]))
    assert_shows(tiff(page(inverted, 0, planar=planar, t338=(SHORT, [2]))), expected[..., 2], within=1)


def test_further_samples_that_are_not_alpha_do_not_show() -> None:
    for count in (1, 3, 9):
        more = np.dstack([RGB, *[GREY] * count])
        assert_shows(tiff(page(more, 2, t338=(SHORT, [0] * count))), RGB)
        assert_shows(tiff(page(TYPES["u2"](more), 2, t338=(SHORT, [0] * count))), RGB)


@pytest.mark.parametrize("name", ["u1", "u2", "f4"])
def test_an_alpha_channel_that_is_only_guessed_and_empty_is_none(name: str) -> None:
    samples = TYPES[name](np.dstack([RGB, np.zeros_like(GREY)]))
    assert_shows(tiff(page(samples, 2)), RGB)
    assert_shows(tiff(page(samples, 2, t338=(SHORT, [2]))), np.full_like(RGB, 255))


def test_the_file_says_what_is_black_and_white() -> None:
    levels = GREY.astype(np.uint16)
    twelve = (levels.astype(np.uint32) * 4095 // 255).astype(np.uint16)
    assert_shows(tiff(page(twelve, t281=(SHORT, [4095]))), GREY, within=1)
    assert_shows(tiff(page(4095 - twelve, 0, t281=(SHORT, [4095]))), GREY, within=1)
    assert_shows(tiff(page(levels * 10 + 100, t280=(SHORT, [100]), t281=(SHORT, [2650]))), GREY)
    stated: dict[str, Any] = {"t340": (DOUBLE, [-1.0]), "t341": (DOUBLE, [3.0])}
    assert_shows(tiff(page((levels / 255 * 4 - 1).astype(np.float32), **stated)), GREY)
    # Half of what it could be: not stretched to the picture's own maximum.
    assert_shows(tiff(page(twelve // 2, t281=(SHORT, [4095]))), GREY // 2, within=1)
    # Of 8 bits they are statistics.
    assert_shows(tiff(page(GREY // 2, t281=(SHORT, [128]))), GREY // 2)
    # Nonsense is ignored.
    assert_shows(tiff(page(TYPES["u2"](GREY), t281=(SHORT, [0]))), GREY)


@pytest.mark.parametrize(
    ("numbers", "dtype", "levels"),
    [
        ([[0, 65535], [257, 32896]], "u2", [[0, 255], [1, 128]]),
        ([[0, 255], [3, 200]], "u2", [[0, 1], [0, 1]]),
        ([[0, 255], [3, 200]], "i2", [[0, 255], [3, 200]]),
        ([[0, 32767], [16384, 129]], "i2", [[0, 255], [128, 1]]),
        ([[-1000, 3000], [1000, 0]], "i2", [[0, 255], [128, 64]]),
        ([[-32768, 32767], [0, -16384]], "i2", [[0, 255], [128, 64]]),
        ([[0, 65535], [257, 32896]], "i4", [[0, 255], [1, 128]]),
        ([[0, 200], [3, 255]], "u4", [[0, 200], [3, 255]]),
        ([[-100, 100_000], [-100, 49_950]], "i4", [[0, 255], [0, 128]]),
        ([[0, 100_000], [50_000, 20_000]], "u4", [[0, 255], [128, 51]]),
        ([[2**31, 0], [2**24, 2**32 - 1]], "u4", [[128, 0], [1, 255]]),
        ([[0, 1], [0.2, 0.6]], "f4", [[0, 255], [51, 153]]),
        ([[0, 200], [3, 255]], "f8", [[0, 200], [3, 255]]),
        ([[-1, 1], [0, 0.5]], "f4", [[0, 255], [128, 191]]),
        ([[-5, -5], [-5, -5]], "f4", [[0, 0], [0, 0]]),
        ([[np.nan, np.inf], [0, 1]], "f4", [[0, 0], [0, 255]]),
    ],
)
def test_numbers_become_levels(numbers: Any, dtype: str, levels: Any) -> None:
    assert_shows(tiff(page(np.array(numbers, dtype))), np.array(levels))


@pytest.mark.parametrize("compression", [5, 8])
@pytest.mark.parametrize(("name", "predictor"), [("u2", 1), ("u2", 2), ("f4", 1), ("f4", 3), ("f8", 3)])
def test_what_opencv_packs_is_unpacked(name: str, compression: int, predictor: int) -> None:
    cv2 = pytest.importorskip("cv2", reason="it comes with the parity extra")
    big = scene(70, 50)
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression, cv2.IMWRITE_TIFF_PREDICTOR, predictor]
    written, data = cv2.imencode(".tif", TYPES[name](big)[..., ::-1], options)
    assert written
    assert_shows(data.tobytes(), big)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_wide_samples_are_turned_upright_too(orientation: int) -> None:
    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}
    upright = Image.fromarray(RGB)
    stored = upright.transpose(Image.Transpose[turns[orientation]]) if orientation > 1 else upright
    data = tiff(page(TYPES["u2"](np.asarray(stored)), 2, t274=(SHORT, [orientation])))
    assert_shows(data, RGB)
    header = read_header(data, LIMITS)
    assert (header.width, header.height) == upright.size


SMALL = scene(9, 7)
COPY: dict[str, Any] = {"t254": (LONG, [1])}
MASK: dict[str, Any] = {"t254": (LONG, [4])}
FULL: dict[str, Any] = {"t254": (LONG, [0])}
CAMERA: dict[str, Any] = {"t271": (TEXT, list(b"Acme\0"))}


def small(**tags: Any) -> Any:
    return page(SMALL, 2, **tags)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("pages", "expected"),
    [
        ([small(**COPY), page(RGB, 2, **FULL)], RGB),
        ([small(t255=(SHORT, [2])), page(RGB, 2, t255=(SHORT, [1]))], RGB),
        ([packed(GREY >> 7, 1, 4, **MASK), page(RGB, 2)], RGB),
        ([page(GREY, 1, **MASK), small(**COPY), page(RGB, 2)], RGB),
        ([small(**COPY, below=[page(RGB, 2, **FULL)])], RGB),
        ([small(**COPY, **CAMERA, below=[page(RGB, 2, **FULL)])], RGB),
        ([page(RGB, 2, below=[small(**COPY)])], RGB),
        ([page(RGB, 2, t254=(LONG, [2])), small(t254=(LONG, [2]))], RGB),
        ([small(), page(RGB, 2)], SMALL),
        ([small(**COPY)], SMALL),
        ([small(**COPY, **CAMERA)], SMALL),
        ([small(**COPY), page(RGB, 2, **COPY)], RGB),
        ([packed(GREY >> 7, 1, 4, **MASK)], (GREY >> 7) * 255),
    ],
)
def test_the_first_full_picture_is_read(pages: list[Any], expected: NDArray[np.uint8], order: str) -> None:
    assert_shows(tiff(*pages, order=order), expected)


MOSAIC = packed(GREY.astype(np.uint32) * 16, 12, 32803, **FULL)


@pytest.mark.parametrize(
    "pages",
    [
        [small(**COPY, t50706=(BYTE, [1, 4, 0, 0]), below=[page(TYPES["u2"](GREY), 32803, **FULL)])],
        [small(**COPY, **CAMERA, below=[small(**COPY), MOSAIC])],
        [page(TYPES["u2"](RGB), 34892, t50706=(BYTE, [1, 4, 0, 0]))],
        [MOSAIC],
        [small(**CAMERA), MOSAIC],
        [small(**CAMERA, below=[page(GREY, 1, compression=34713)])],
        [small(**CAMERA, **COPY, below=[page(GREY, 1, **COPY)])],
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_raw_file_is_told_from_a_picture(pages: list[Any], order: str) -> None:
    with pytest.raises(InvalidImage, match=r"raw file is not read\. Export it as JPEG, PNG or TIFF"):
        decode(tiff(*pages, order=order), LIMITS)


def test_the_marks_of_raw_files() -> None:
    for start in (b"II*\0\x10\0\0\0CR\x02\0", b"II*\0\x10\0\0\0IIII", b"IIRO\x08\0\0\0", b"FUJIFILMCCD-RAW 0201"):
        with pytest.raises(InvalidImage, match="raw file is not read"):
            decode(start + bytes(100), LIMITS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(page(TYPES["u2"](RGB), 8)), r"3 × 16-bit samples, Lab, uncompressed"),
        (tiff(page(GREY, 1, compression=34712)), r"1 × 8-bit samples, grey, JPEG 2000"),
        (tiff(page(TYPES["u2"](GREY), 1, compression=7)), r"1 × 16-bit samples, grey, JPEG"),
        (tiff(page(GREY, 1, compression=50001)), r"1 × 8-bit samples, grey, WebP"),
        (tiff(packed(GREY.astype(np.uint32), 24)), r"1 × 24-bit samples, grey"),
        (tiff(page(GREY, 1, t339=(SHORT, [5]))), r"1 × 8-bit complex samples"),
        (tiff(page(np.dstack([RGB] * 4), 5)), r"12 × 8-bit samples, CMYK"),
    ],
)
def test_a_sound_tiff_of_a_rare_kind_is_called_that(data: bytes, words: str) -> None:
    with pytest.raises(InvalidImage, match=rf"This kind of TIFF \({words}.*\) is not read. Convert it to PNG or JPEG"):
        decode(data, LIMITS)


def palette_page(scale: int) -> Any:
    colour_map = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2]) * scale
    return page(GREY, 3, t320=(SHORT, colour_map.ravel().tolist()))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("scale", [1, 256, 257])
def test_a_colour_map_of_8_bits_is_taken_as_it_is(scale: int, order: str) -> None:
    assert_shows(tiff(palette_page(scale), order=order), np.stack([GREY, 255 - GREY, GREY // 2], axis=-1))


def subsampled(across: int, down: int, **tags: Any) -> Any:
    """An uncompressed YCbCr page of 24 × 16 pixels: a block's Y, then its Cb and Cr."""
    ycc = np.asarray(Image.fromarray(SMOOTH).convert("YCbCr"))
    pieces = bytearray()
    for top in range(0, 16, down):
        for left in range(0, 24, across):
            block = ycc[top : top + down, left : left + across]
            pieces += bytes([*block[..., 0].ravel(), *block[0, 0, 1:]])
    made = page(SMOOTH, 6, **tags)
    made.pieces = [bytes(pieces)]
    return made


SMOOTH = np.repeat(np.repeat(scene(6, 4), 4, axis=0), 4, axis=1)  # blocks of 4 × 4 pixels of a colour


@pytest.mark.parametrize("factors", [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (4, 2), (4, 4)])
def test_ycbcr_whose_pixels_share_colour(factors: tuple[int, int]) -> None:
    made = subsampled(*factors, t530=(SHORT, list(factors)))
    assert_shows(with_pixels_last(made), SMOOTH, within=3)
    for cut in (1, 60):
        with pytest.raises(InvalidImage, match="truncated or damaged"):
            decode(with_pixels_last(made)[:-cut], LIMITS)


def test_ycbcr_that_does_not_say_what_its_pixels_share() -> None:
    for factors in ((1, 1), (2, 2)):
        assert_shows(tiff(subsampled(*factors)), SMOOTH, within=3)


def test_ycbcr_whose_pixels_share_colour_otherwise_is_a_rare_kind() -> None:
    made = subsampled(2, 4, t530=(SHORT, [2, 4]))
    with pytest.raises(InvalidImage, match=r"3 × 8-bit samples, YCbCr, uncompressed, subsampled 2 × 4\) is not read"):
        decode(tiff(made), LIMITS)


def test_wide_samples_count_for_the_room_they_take() -> None:
    data = tiff(page(np.zeros((100, 100, 3)), 2))  # 24 bytes for a pixel, twice
    assert 30_000 <= read_header(data, LIMITS).pixels < 31_000  # its rows and strips take something besides
    with pytest.raises(ImageTooLarge, match=r"30,\d{3} pixels"):
        decode(data, DecodeLimits(10**7, 29_999, 1))


def test_a_tile_far_larger_than_the_picture_is_refused() -> None:
    wide = page(np.zeros((9, 9), np.uint16), tile=16)
    wide.tags |= {322: (LONG, [2**30]), 323: (LONG, [2**30])}
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(tiff(wide), LIMITS)
    # A row of tiles is as wide as they are, however narrow the picture.
    tall = page(np.zeros((9, 1), np.uint16), tile=16)
    tall.tags |= {257: (LONG, [10**5]), 322: (LONG, [10**6]), 323: (LONG, [1])}
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(tiff(tall), LIMITS)


SPECIMENS = [
    tiff(page(TYPES["u2"](RGB), 2, planar=True, tile=16), order="<"),
    tiff(page(TYPES["f4"](RGB), 2, compression=8, order=">"), order=">"),
    tiff(page(TYPES["i2"](GREY), 0)),
    tiff(packed(GREY.astype(np.uint32) * 16, 12)),
    tiff(small(**COPY, below=[page(RGB, 2)]), page(TYPES["u4"](GREY), 1, t281=(LONG, [2**31]))),
]


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_tiffs_raise_only_our_errors(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SPECIMENS)))
    tables = int.from_bytes(damaged[4:8], "little" if damaged[:2] == b"II" else "big")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from([range(len(damaged)), range(tables, min(tables + 250, len(damaged)))]))
        position = data.draw(st.sampled_from(place))
        damaged[position] = data.draw(st.sampled_from([0, 1, 2, 4, 8, 16, 0x7F, 0x80, 0xFF]))
    with contextlib.suppress(ServiceError):
        image = decode(bytes(damaged), DecodeLimits(10**6, 10**6, 5))
        assert image.rgb.mode == "RGB"


@pytest.mark.parametrize(("samples", "photometric"), [(GREY, 1), (RGB, 2)], ids=["grey", "RGB"])
def test_without_a_photometric_interpretation_black_is_zero(samples: NDArray[np.uint8], photometric: int) -> None:
    """As libtiff takes it; the tag must be there, and some programs leave it out."""
    written = page(samples, photometric)
    del written.tags[262]

    assert_shows(tiff(written), samples)
