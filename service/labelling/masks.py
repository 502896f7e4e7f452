"""Masks as labelling tools want them: as a picture's opacity, by their bounds, by their peak."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]
    Point = tuple[float, float]

__all__ = ["alpha_png", "bounds_of", "peak_of"]


def alpha_png(levels: NDArray[np.uint8]) -> bytes:
    """Write levels (h, w) as the opacity of a picture without colours of its own."""
    white = np.full_like(levels, 255)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([white, white, white, levels], axis=2), "RGBA").save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def bounds_of(mask: Mask) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of what is in a mask that holds something, the last two behind it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def peak_of(levels: NDArray[np.uint8], mask: Mask) -> Point:
    """Return the middle of the highest pixel of a mask that holds some."""
    y, x = np.unravel_index(int(np.where(mask, levels.astype(np.int16), -1).argmax()), levels.shape)
    return float(x) + 0.5, float(y) + 0.5
