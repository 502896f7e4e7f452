"""Convert a picture of any Pillow mode to plain RGB, the way a person would see it on white paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["to_rgb"]

_NUMBERS = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_BAND_PIXELS = 1_000_000


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` in mode RGB.

    Transparency, of every kind, is composited over white. Numbers wider than 8 bits are scaled, not clipped:

    - 16-bit grey by 1/257, so that 65535 is white;
    - 32-bit integers likewise, except that values that all lie in 0–255 are taken as they are;
    - floats in 0–1 by 255, floats in 0–255 as they are;
    - whatever lies outside these ranges from its own minimum (black) to its own maximum (white). NaN is black.

    Colour profiles are not applied: classifiers are trained on pictures read without them.
    """
    if image.mode in _NUMBERS:
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied, and not convertible in one step
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, (255, 255, 255))
    paper.paste(image, mask=image)
    return paper


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """Scale numbers to 0–255, (h, w), a band of rows at a time: whole, the steps between take 27 bytes per pixel."""
    grey = np.empty((image.height, image.width), np.uint8)
    if image.mode.startswith("I;16"):
        for rows, values in _bands(image):
            grey[rows] = (values.astype(np.uint32) + 128) // 257
        return grey
    low, high = _range(image)
    for rows, values in _bands(image):
        grey[rows] = np.rint((_finite(values) - low) * (255.0 / (high - low)))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[slice, NDArray[Any]]]:
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), np.asarray(image.crop((0, top, image.width, bottom)))


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.nan_to_num(values.astype(np.float64), copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the values that become black and white."""
    extremes = [(values.min(), values.max()) for values in (_finite(band) for _, band in _bands(image))]
    low, high = float(min(low for low, _ in extremes)), float(max(high for _, high in extremes))
    for white in (1.0, 255.0) if image.mode == "F" else (255.0, 65535.0):
        if low >= 0 and high <= white:
            return 0.0, white
    return low, high if high > low else low + 1.0
