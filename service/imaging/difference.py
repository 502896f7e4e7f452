"""How far a map has moved, as a number and as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from service.imaging.colormaps import colormap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Levels = NDArray[np.uint8]

__all__ = ["draw_difference", "moved", "panels"]

_SIDE, _GAP, _TITLE = 320, 8, 22  # of a panel, between panels, above them; pixels
_OVERLAY, _DARK = 0.5, 0.45  # how much of the map is laid on, and how much of the picture is left under the difference
_TITLES = ("recorded", "now", "more now (red), less now (blue)")
_MORE, _LESS = (235, 60, 45), (60, 110, 240)


def moved(before: Levels, after: Levels) -> float:
    """Return the share of a map's mass that lies elsewhere now, 0 to 1.

    Both maps (h, w) are taken as distributions over the picture; it is half the sum of their absolute differences (the
    total variation distance). An empty map and one that is not have nothing in common: 1. Two empty ones: 0.

    Raises:
        ValueError: they differ in shape.
    """
    if before.shape != after.shape:
        raise ValueError(f"the maps are {before.shape} and {after.shape}")
    sums = before.sum(dtype=np.float64), after.sum(dtype=np.float64)
    if not all(sums):
        return float(any(sums))
    return float(0.5 * np.abs(before / sums[0] - after / sums[1]).sum())


def draw_difference(picture: Image.Image, before: Levels, after: Levels, colours: str) -> Image.Image:
    """Draw the picture under the map that was, under the one that is, and where they differ: red is more, blue is less.

    Args:
        picture: upright, RGB.
        before: the recorded map (h, w), 255 its maximum.
        after: the map now, the same.
        colours: the name of the colormap of the first two.
    """
    drawn = panels(picture, before, after, colours)
    width, height = drawn[0].size
    step = max(width, 200) + _GAP  # room for the titles
    sheet = Image.new("RGB", (len(drawn) * step - _GAP, height + _TITLE), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (title, panel) in enumerate(zip(_TITLES, drawn, strict=True)):
        draw.text((place * step, 3), title, "black", ImageFont.load_default(13))
        sheet.paste(panel, (place * step, _TITLE))
    return sheet


def panels(
    picture: Image.Image, before: Levels, after: Levels, colours: str
) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Return the three pictures that ``draw_difference`` lays side by side, of one size."""
    base = picture.copy()
    base.thumbnail((_SIDE, _SIDE))
    return _overlay(base, before, colours), _overlay(base, after, colours), _change(base, before, after)


def _enlarged(levels: Levels, size: tuple[int, int]) -> NDArray[np.float32]:
    """Return a map at the size of a panel, (h, w), 0 to 1."""
    image = Image.fromarray(levels).convert("F").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32) / np.float32(255)


def _overlay(base: Image.Image, levels: Levels, colours: str) -> Image.Image:
    table = colormap(colours).table
    heat = table[np.rint(255 * _enlarged(levels, base.size)).astype(np.uint8)]  # (h, w, 3)
    return Image.blend(base, Image.fromarray(heat), _OVERLAY)


def _change(base: Image.Image, before: Levels, after: Levels) -> Image.Image:
    change = (_enlarged(after, base.size) - _enlarged(before, base.size))[..., None]  # (h, w, 1), -1 to 1
    grey = np.asarray(base.convert("L"), np.float32)[..., None] * np.float32(_DARK)
    colour = np.where(change > 0, np.array(_MORE, np.float32), np.array(_LESS, np.float32))
    mixed = grey + np.abs(change) * (colour - grey)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))
