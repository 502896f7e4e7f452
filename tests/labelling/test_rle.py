"""Label Studio's run lengths, against what its own encoder made and what its decoder does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import InvalidOption
from service.labelling.rle import decode, encode

# What label_studio_sdk 2.1.2 makes of a mask of 3 × 2 pixels with the middle column filled.
THEIRS = [0, 0, 0, 24, 57, 27, 252, 96, 17, 255, 206, 1, 31, 252, 96, 0]


def bits_of(values: Any) -> str:
    return "".join(f"{value:08b}" for value in values)


def unpacked(rle: list[int]) -> list[int]:
    """As the editor unpacks it, bit by bit."""
    bits, position = bits_of(rle), 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    number, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < number:
        repeated, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if repeated else [read(word) for _ in range(length)]
    return values


masks = arrays.arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20)))


@given(masks)
def test_what_the_editor_unpacks_is_the_mask_in_all_channels(mask: Any) -> None:
    values = np.array(unpacked(encode(mask))).reshape(*mask.shape, 4)
    assert (values == np.where(mask, 255, 0)[..., None]).all()


def test_theirs_is_read() -> None:
    assert (decode(THEIRS, 2, 3) == [[False, True, False]] * 2).all()


@given(masks)
def test_there_and_back(mask: Any) -> None:
    assert (decode(encode(mask), *mask.shape) == mask).all()


@pytest.mark.parametrize("fill", [False, True])
def test_runs_longer_than_the_longest(fill: bool) -> None:
    mask = np.full((300, 300), fill)
    mask[0, 0] = True
    assert (decode(encode(mask), 300, 300) == mask).all()
    assert len(encode(mask)) < 60, "about four bytes for 64 KiB"


def test_bytes_as_they_are() -> None:
    """The editor writes short runs as they come: here two pixels, the second with an alpha of 7."""
    header = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
    literal = f"000{7:03b}{bits_of([1, 2, 3, 0, 4, 5, 6, 7])}"
    text = (header + literal).ljust(-(-len(header + literal) // 8) * 8, "0")
    rle = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert (decode(rle, 1, 2) == [[False, True]]).all()


HOSTILE: list[Any] = [None, 5, "rle", [], [0, 0, 0, 8], [256] * 8, ["a"] * 8, [0.5] * 8, [255] * 100, [0] * 2_000_000]


@pytest.mark.parametrize("rle", HOSTILE, ids=lambda rle: str(rle)[:20])
def test_hostile(rle: Any) -> None:
    with pytest.raises(InvalidOption, match="brush"):
        decode(rle, 4, 4)


@given(st.lists(st.integers(0, 255), max_size=200))
def test_any_bytes_behind_the_header(rest: list[int]) -> None:
    header = encode(np.zeros((4, 4), np.bool_))[:8]
    assert decode(header + rest, 4, 4).shape == (4, 4)
