"""Toy models and pictures whose numbers can be worked out by hand."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray


def png(pixels: NDArray[Any] | None = None, *, size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    """A PNG file of ``pixels`` (h, w, 3) uint8, or of noise with ``size`` (width, height)."""
    if pixels is None:
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return encode(Image.fromarray(pixels), "PNG")


def encode(picture: Image.Image, format_name: str, **options: Any) -> bytes:
    """The bytes of ``picture`` in a format."""
    stream = io.BytesIO()
    picture.save(stream, format_name, **options)
    return stream.getvalue()
