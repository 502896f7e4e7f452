"""Masks: what hangs together, and what lies nearer."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from service.labelling.masks import alpha_png, bounds_of, levels_of, nearer_to, parts_at, peak_of


def drawn(*rows: str) -> Any:
    return np.array([[cell == "#" for cell in row] for row in rows])


SHAPE = drawn(
    "##..#",
    "#..##",
    "..#..",
    "##..#",
)


def at(x: int, y: int) -> Any:
    seeds = np.zeros(SHAPE.shape, np.bool_)
    seeds[y, x] = True
    return seeds


class TestParts:
    def test_the_part_at_a_place(self) -> None:
        assert (parts_at(SHAPE, at(0, 1)) == drawn("##...", "#....", ".....", ".....")).all()
        assert (parts_at(SHAPE, at(4, 0)) == drawn("....#", "...##", ".....", ".....")).all()

    def test_several_places(self) -> None:
        assert (parts_at(SHAPE, at(2, 2) | at(4, 3)) == drawn(".....", ".....", "..#..", "....#")).all()

    def test_a_place_outside(self) -> None:
        assert not parts_at(SHAPE, at(2, 0)).any()

    def test_nothing_at_all(self) -> None:
        assert not parts_at(np.zeros((3, 3), np.bool_), np.ones((3, 3), np.bool_)).any()

    @given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
    def test_it_is_what_one_can_walk_to(self, mask: Any, data: st.DataObject) -> None:
        row, column = (data.draw(st.integers(0, side - 1)) for side in mask.shape)
        seeds = np.zeros_like(mask)
        seeds[row, column] = True
        reached = seeds & mask
        while True:
            wider = reached.copy()
            wider[1:] |= reached[:-1]
            wider[:-1] |= reached[1:]
            wider[:, 1:] |= reached[:, :-1]
            wider[:, :-1] |= reached[:, 1:]
            wider &= mask
            if (wider == reached).all():
                break
            reached = wider
        assert (parts_at(mask, seeds) == reached).all()


def test_nearer() -> None:
    assert (nearer_to((1, 4), [(0.5, 0.5)], [(3.5, 0.5)]) == drawn("##..")).all()
    assert nearer_to((2, 2), [(0.5, 0.5)], []).all()
    assert not nearer_to((2, 2), [], [(0.5, 0.5)]).any()


def test_bounds_and_peak() -> None:
    assert bounds_of(drawn("....", ".#..", "..#.")) == (1, 1, 3, 3)
    levels = np.array([[9, 1, 2], [3, 8, 4]], np.uint8)
    assert peak_of(levels, drawn(".##", "###")) == (1.5, 1.5)


def test_a_picture_is_as_opaque_as_its_levels() -> None:
    levels = np.array([[0, 128, 255]], np.uint8)
    image = Image.open(io.BytesIO(alpha_png(levels)))
    assert image.mode == "RGBA"
    assert (np.asarray(image)[..., 3] == levels).all()
    buffer = io.BytesIO()
    Image.fromarray(levels).save(buffer, "PNG")
    assert (levels_of(buffer.getvalue()) == levels).all()
