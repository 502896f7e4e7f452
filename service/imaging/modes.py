"""Convert a picture of any Pillow mode to plain RGB, the way a person would see it on white paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["over_white", "to_rgb"]

_BAND_PIXELS = 1_000_000


def to_rgb(image: Image.Image) -> Image.Image:
    """Return ``image`` in mode RGB; 16-bit grey is scaled by 1/257, so that 65535 is white.

    Transparency, of every kind, is composited over white. Colour profiles are not applied: classifiers are trained on
    pictures read without them.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray(_grey(image)).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    """Convert L*a*b* of the white that TIFF has for it, D50. Pillow's own way is up to 35 levels off, by a table."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    exact = ImageCms.buildTransform(lab, srgb, "LAB", "RGB", flags=ImageCms.Flags.NOOPTIMIZE)
    rgb: Image.Image | None = ImageCms.applyTransform(image, exact)
    if rgb is None:
        raise ValueError("nothing came of the transform")
    return rgb


def over_white(rgb: Image.Image, hidden: NDArray[np.bool_]) -> Image.Image:
    """Return a picture that is white where ``hidden``, (h, w), is true."""
    shown = rgb.copy()
    shown.paste((255, 255, 255), mask=Image.fromarray(hidden))
    return shown


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # premultiplied, and not convertible in one step
        image = image.convert("LA")
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, (255, 255, 255))
    paper.paste(image, mask=image)
    return paper


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    """Scale numbers to 0–255, (h, w), a band of rows at a time: whole, the steps between take 14 bytes per pixel."""
    grey = np.empty((image.height, image.width), np.uint8)
    height = max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, height):
        rows = slice(top, min(top + height, image.height))
        values: NDArray[Any] = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        grey[rows] = (values.astype(np.uint32) + 128) // 257
    return grey
