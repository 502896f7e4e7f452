"""A TIFF of which a part is missing is called damaged, and never read with something else in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InvalidImage
from service.imaging.decode import decode
from tests.imaging.odd_files import LONG, SHORT, packed, page, tiff, with_pixels_last
from tests.imaging.test_tiff import GREY, LIMITS, RGB, TYPES, assert_shows, shown


@pytest.mark.parametrize("name", ["u2", "f4", "f8"])
@pytest.mark.parametrize("compression", [1, 8])
def test_cut_short_it_is_damaged(name: str, compression: int) -> None:
    cut = page(TYPES[name](RGB), 2, compression=compression)
    cut.pieces = [cut.pieces[0][:100]]
    with pytest.raises(InvalidImage, match="truncated or damaged"):
        decode(tiff(cut), LIMITS)


CUT: dict[str, Any] = {
    **{f"{name} in a strip": page(TYPES[name](RGB), 2) for name in TYPES if name not in ("u1", "f4 to 255")},
    **{f"{name} in tiles": page(TYPES[name](RGB), 2, tile=16) for name in ("i1", "u2", "f4")},
    **{f"{name} in planes": page(TYPES[name](RGB), 2, planar=True) for name in ("u1", "u2", "i4")},
    **{f"{name} deflated": page(TYPES[name](RGB), 2, compression=8) for name in ("u1", "u2", "f8")},
    **{f"grey of {bits} bits": packed(GREY.astype(np.uint32), bits) for bits in (9, 12, 15)},
    "RGB of 4 bits": packed(RGB >> 4, 4, 2),
    "planes in tiles": page(TYPES["u2"](RGB), 2, planar=True, tile=16),
    "planes that do not show": page(np.dstack([RGB, GREY]), 2, planar=True, t338=(SHORT, [0])),
    "inverted": page(TYPES["i2"](GREY), 0),
}


@pytest.mark.parametrize("kind", CUT)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_no_byte_of_the_pixels_may_be_missing(kind: str, data: st.DataObject) -> None:
    order = "<>"[kind in ("RGB of 4 bits", "grey of 12 bits")]
    whole = with_pixels_last(CUT[kind], order)
    assert shown(whole).shape == RGB.shape
    cut = data.draw(st.one_of(st.integers(1, 200), st.integers(1, len(whole) - 1)))
    expected = "truncated or damaged|not a picture in a known format"
    with pytest.raises(InvalidImage, match=expected if len(whole) - cut < 16 else "truncated or damaged"):
        decode(whole[:-cut], LIMITS)


def test_a_strip_shorter_than_its_rows_is_damaged() -> None:
    short = page(TYPES["u2"](RGB), 2)
    rows = [short.pieces[0][top * 222 : (top + 10) * 222] for top in range(0, 29, 10)]
    short.tags[278] = (LONG, [10])
    short.pieces = rows
    assert_shows(tiff(short), RGB)
    for index, row in enumerate(rows):
        short.pieces = [*rows[:index], row[:-1], *rows[index + 1 :]]
        with pytest.raises(InvalidImage, match="truncated or damaged"):
            decode(tiff(short), LIMITS)


@pytest.mark.parametrize("compression", [1, 8])
def test_strips_that_do_not_say_how_long_they_are(compression: int) -> None:
    strip = page(TYPES["u2"](RGB), 2, compression=compression)
    strip.tags[278] = (LONG, [2**32 - 1])
    whole = with_pixels_last(strip)
    length = len(strip.pieces[0]).to_bytes(4, "little")
    assert whole.count(b"\x17\1\4\0\1\0\0\0" + length) == 1
    unsaid = whole.replace(b"\x17\1\4\0\1\0\0\0" + length, b"\x17\1\4\0\1\0\0\0" + bytes(4))
    assert_shows(unsaid, RGB)
    for cut in (10, 40, 1000):  # fewer may be only the checksum behind deflated bytes
        with pytest.raises(InvalidImage, match="truncated or damaged"):
            decode(unsaid[:-cut], LIMITS)


def test_a_palette_picture_that_is_cut_is_damaged(save: Any) -> None:
    whole = save(Image.fromarray(RGB).quantize(200), "TIFF")
    for end in range(16, len(whole) - 1, 7):
        with pytest.raises(InvalidImage, match="truncated or damaged"):
            decode(whole[:end], LIMITS)


@pytest.mark.parametrize("pages", [[page(TYPES["i2"](GREY), 1)], [page(GREY, t254=(LONG, [1])), page(RGB, 2)]])
def test_a_directory_that_is_cut_is_damage(pages: list[Any]) -> None:
    """What is gone may say that the samples are signed, or where the picture behind the thumbnail is."""
    whole = tiff(*pages)
    for cut in range(1, 60):
        with pytest.raises(InvalidImage, match="truncated or damaged"):
            decode(whole[:-cut], LIMITS)
