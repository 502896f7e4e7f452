"""Bitmaps of runs: what they show, and that they take a step for each run."""

from __future__ import annotations

import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ImageTooLarge, InvalidImage, ServiceError
from service.imaging import bmp_runs
from service.imaging.decode import DecodeLimits, decode
from service.imaging.headers import MAX_PARTS

LIMITS = DecodeLimits(10_000_000, 64_000_000, 50)
COLOURS = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (250, 250, 10), (1, 2, 3)]


def bmp(width: int, height: int, runs: bytes, bits: int = 8, colours: list[tuple[int, int, int]] = COLOURS) -> bytes:
    table = b"".join(bytes((*colour[::-1], 0)) for colour in colours).ljust(4 << bits, b"\0")
    kind, start = {8: 1, 4: 2}[bits], 54 + (4 << bits)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, kind, len(runs), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + info + table + runs


def numbers(data: bytes) -> list[list[int]]:
    """The colour numbers, the upper row first."""
    pixels = np.asarray(decode(data, LIMITS).rgb)
    return [[COLOURS.index((int(pixel[0]), int(pixel[1]), int(pixel[2]))) for pixel in row] for row in pixels]


@pytest.mark.parametrize(
    ("bits", "runs", "rows"),
    [
        (8, b"\3\1\0\0\1\2\2\3\0\1", [[2, 3, 3], [1, 1, 1]]),
        (4, b"\3\x12\0\0\1\x20\2\x34\0\1", [[2, 3, 4], [1, 2, 1]]),
        (8, b"\0\3\1\2\3\0\0\0\3\5\0\1", [[5, 5, 5], [1, 2, 3]]),
        (4, b"\0\3\x12\x30\0\0\3\x55\0\1", [[5, 5, 5], [1, 2, 3]]),
        (8, b"\1\4\0\2\1\1\1\3\0\1", [[0, 0, 3], [4, 0, 0]]),
        (8, b"\2\1\0\1", [[0, 0, 0], [1, 1, 0]]),
        (8, b"\1\1\0\0\0\0", [[0, 0, 0], [1, 0, 0]]),
    ],
    ids=["runs", "runs by turns", "as they are", "halves as they are", "a jump", "an end", "short lines"],
)
def test_what_it_shows(bits: int, runs: bytes, rows: list[list[int]]) -> None:
    data = bmp(3, 2, runs, bits)
    assert numbers(data) == rows
    cv2 = pytest.importorskip("cv2", reason="it comes with the parity extra")
    reference = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert reference is not None
    assert (np.asarray(decode(data, LIMITS).rgb) == reference[..., ::-1]).all()


def test_a_run_ends_with_its_row() -> None:
    assert numbers(bmp(3, 2, b"\xff\1\0\0\3\2")) == [[2, 2, 2], [1, 1, 1]]


def test_the_first_row_may_be_the_upper_one() -> None:
    assert numbers(bmp(3, -2, b"\3\1\0\0\3\2\0\1")) == [[1, 1, 1], [2, 2, 2]]


def test_of_grey_and_of_black_and_white() -> None:
    grey = bmp(2, 1, b"\1\x07\1\xf0\0\1", colours=[(level, level, level) for level in range(256)])
    assert np.asarray(decode(grey, LIMITS).rgb)[0, :, 0].tolist() == [7, 240]


@pytest.mark.parametrize("runs", [b"", b"\3", b"\3\1", b"\3\1\0\0\0\5\1", b"\0\2\1", b"\3\1\0\0\2\1"])
def test_one_that_ends_early_is_damaged(runs: bytes) -> None:
    with pytest.raises(InvalidImage, match="truncated or damaged"):
        decode(bmp(3, 2, runs), LIMITS)


@given(st.binary(max_size=200), st.sampled_from([4, 8]), st.integers(1, 20), st.integers(1, 20))
def test_any_runs_raise_only_our_errors(runs: bytes, bits: int, width: int, height: int) -> None:
    try:
        image = decode(bmp(width, height, runs, bits), LIMITS)
    except ServiceError:
        return
    assert image.rgb.size == (width, height)


def test_lines_of_one_pixel_take_no_step_for_the_others() -> None:
    """32 KB for 64 megapixels, which took Pillow a step for each of them: 8 seconds."""
    began = time.thread_time()
    decode(bmp(8000, 8000, b"\1\1\0\0" * 8000), LIMITS)
    assert time.thread_time() - began < 3


def test_more_runs_than_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MAX_PARTS, "BMP", 100)
    assert decode(bmp(100, 1, b"\1\1" * 99 + b"\0\1"), LIMITS).width == 100
    with pytest.raises(ImageTooLarge, match=r"more than 100 parts\. Save it anew, uncompressed or as PNG") as caught:
        decode(bmp(200, 1, b"\1\1" * 199 + b"\0\1"), LIMITS)
    assert caught.value.details["unit"] == "parts"


def test_runs_that_lead_nowhere_are_counted() -> None:
    with pytest.raises(bmp_runs.TooManyRuns):
        bmp_runs.read_runs(memoryview(b"\0\2\1\0" * 1000), 8, 8, 8, 500)
