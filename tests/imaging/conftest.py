from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from PIL import Image

from service.imaging.decode import DecodedImage, DecodeLimits

if TYPE_CHECKING:
    from collections.abc import Callable


class Save(Protocol):
    def __call__(self, image: Image.Image, name: str, **options: Any) -> bytes: ...


@pytest.fixture(scope="session")
def limits() -> DecodeLimits:
    return DecodeLimits(max_bytes=10_000_000, max_pixels=20_000_000, max_frames=50)


@pytest.fixture(scope="session")
def photo() -> Callable[[int, int], Image.Image]:
    """A smooth picture without any symmetry, so that a wrong orientation or offset shows."""

    def make(width: int, height: int) -> Image.Image:
        y, x = np.mgrid[0:height, 0:width]
        x, y = (x + 0.5) / width, (y + 0.5) / height
        bands = [255 * x, 255 * y, 127 + 120 * np.sin(5 * x + 3 * y)]
        return Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def save() -> Save:
    def to_bytes(image: Image.Image, name: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, name, **options)
        return buffer.getvalue()

    return to_bytes


@pytest.fixture(scope="session")
def as_decoded() -> Callable[[Image.Image], DecodedImage]:
    def wrap(picture: Image.Image) -> DecodedImage:
        return DecodedImage(picture, picture.width, picture.height, "PNG")

    return wrap
