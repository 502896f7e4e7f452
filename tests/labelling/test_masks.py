"""Masks as labelling tools want them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from service.labelling.masks import alpha_png, bounds_of, peak_of


def drawn(*rows: str) -> Any:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_bounds_and_peak() -> None:
    assert bounds_of(drawn("....", ".#..", "..#.")) == (1, 1, 3, 3)
    levels = np.array([[9, 1, 2], [3, 8, 4]], np.uint8)
    assert peak_of(levels, drawn(".##", "###")) == (1.5, 1.5)


def test_a_picture_is_as_opaque_as_its_levels() -> None:
    levels = np.array([[0, 128, 255]], np.uint8)
    with Image.open(io.BytesIO(alpha_png(levels))) as image:
        assert image.mode == "RGBA"
        assert (np.asarray(image)[..., 3] == levels).all()
