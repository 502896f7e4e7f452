"""Pictures that are sent as numbers: rows of pixels, 0 to 255."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from service.errors import InvalidImage

__all__ = ["file_of"]

_KINDS = {"u", "i", "f"}


def file_of(pixels: list[Any], where: str) -> bytes:
    """Return nested lists of numbers as a picture's file, losslessly but for fractions, which are rounded.

    Args:
        pixels: H × W × 3, H × W × 1 or H × W; numbers from 0 to 255.
        where: in the request, for whoever has to find it.

    Raises:
        InvalidImage: they are something else.
    """
    try:
        values = np.asarray(pixels)
    except ValueError:  # rows of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in _KINDS or not values.size:
        raise InvalidImage(f"{where!r} is no picture: rows of pixels are lists of numbers, all rows of one length.")
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in {1, 3}:
        raise InvalidImage(
            f"{where!r} has the shape {'×'.join(map(str, values.shape))}. Send height × width × 3 (or × 1), or the "
            "picture's file in base64."
        )
    if not (values.min() >= 0 and values.max() <= 255):
        raise InvalidImage(
            f"{where!r} has values from {float(values.min()):g} to {float(values.max()):g}. Send pixels as they are, 0 "
            "to 255: the model's own preprocessing is applied here."
        )
    return _png(np.rint(values).astype(np.uint8).repeat(3 // values.shape[2], axis=2))


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()
