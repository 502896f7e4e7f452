"""How a part of a picture is hidden: a strong blur of the picture takes its place, with a soft edge.

A grey box would be something that the model sees as well; what is blurred is nearer to nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["blurred", "feathered", "hide"]

_BAND_PIXELS = 1_000_000
# Standard deviations, as shares of the longer and of the shorter side of what the model saw.
_BLUR, _FEATHER = 1 / 10, 1 / 56


def blurred(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a strong blur of ``pixels`` (h, w, channels), of the same shape."""
    sigma = _BLUR * max(pixels.shape[:2])
    return np.stack([_gaussian(pixels[..., channel], sigma) for channel in range(pixels.shape[2])], axis=2)


def feathered(hot: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return how much of each pixel is hidden, 0 to 255: ``hot`` (h, w) with a soft edge, and its area."""
    return _gaussian(hot.astype(np.uint8) * np.uint8(255), _FEATHER * min(hot.shape))


def _gaussian(plane: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """Blur (h, w) as if it were mirrored at its edges, so that nothing flows over them."""
    beyond = math.ceil(3 * sigma)
    wide = Image.fromarray(np.pad(plane, beyond, mode="symmetric"))
    height, width = plane.shape
    return np.asarray(wide.filter(ImageFilter.GaussianBlur(sigma)))[beyond : beyond + height, beyond : beyond + width]


def hide(pixels: NDArray[np.uint8], instead: NDArray[np.uint8], opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return ``pixels`` (h, w, channels) with ``instead`` laid over them, ``opacity`` (h, w) in 0 to 255."""
    hidden = pixels.copy()
    height = max(1, _BAND_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), height):  # in bands: floats take four times the room of the picture
        band = slice(top, top + height)
        share = opacity[band, :, None] / np.float32(255)
        hidden[band] = np.round(pixels[band] + share * (instead[band] - pixels[band].astype(np.float32)))
    return hidden
