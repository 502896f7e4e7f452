"""Bilinear resizing that is not antialiased: between the four nearest pixels, however many are passed over.

TensorFlow's ``tf.image.resize`` and what builds on it (``keras.layers.Resizing``, ``image_dataset_from_directory``) do
so by default; Pillow always averages. Pixels are at the middle of their cells, as in both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["resize_plainly"]


def resize_plainly(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """Resize what lies in ``box`` of an RGB or grey picture.

    Args:
        image: of 8 bits per channel.
        size: width and height of the result.
        box: left, top, right, bottom, in pixels.

    Returns:
        The picture, rounded to whole levels: half a level at most from what floating point would have.
    """
    left, right, across = _between(size[0], box[0], box[2], image.width)
    above, below, down = _between(size[1], box[1], box[3], image.height)
    pixels = np.asarray(image)
    pixels = pixels.reshape(image.height, image.width, -1)  # (H, W, channels)
    across, down = across[None, :, None], down[:, None, None]
    top = _mixed(pixels[np.ix_(above, left)], pixels[np.ix_(above, right)], across)  # (h, w, channels)
    bottom = _mixed(pixels[np.ix_(below, left)], pixels[np.ix_(below, right)], across)
    mixed = top + (bottom - top) * down
    return Image.fromarray(
        (mixed + 0.5).astype(np.uint8).reshape(size[1], size[0], *([-1] if image.mode == "RGB" else []))
    )


def _between(
    size: int, low: float, high: float, extent: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return, for one axis, the pixels before and after each of ``size`` places, and how far it is from the first."""
    places = low + (np.arange(size) + 0.5) * ((high - low) / size) - 0.5
    places = np.clip(places, 0, extent - 1)
    before = places.astype(np.intp)
    return before, np.minimum(before + 1, extent - 1), (places - before).astype(np.float32)


def _mixed(first: NDArray[np.uint8], second: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.float32]:
    start = first.astype(np.float32)
    return start + (second.astype(np.float32) - start) * share
