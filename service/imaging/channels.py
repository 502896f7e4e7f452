"""All channels of a picture, for models that take others than colours or grey: transparency, infrared, depth.

Nothing is made up: a picture has the channels that the model takes, or it is refused.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.errors import InvalidImage
from service.imaging.formats import FORMATS
from service.imaging.readers import BYTES_PER_PIXEL, orientation_of, turned
from service.imaging.tiff import Layout, Tag, find_directory
from service.imaging.tiff_samples import can_read_channels, channel_bytes, read_channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image, ImageFile

__all__ = ["Channels", "open_channels"]

_WITH_ALPHA = {"PNG": "PNG", "WEBP": "WebP"}


@dataclass(frozen=True, slots=True)
class Channels:
    """The channels of a picture of which the header is read.

    Attributes:
        pixels: how many ``load`` makes room for, beside the picture itself; see ``Opened``.
        load: returns them in their order, upright and in mode L.
    """

    pixels: int
    load: Callable[[], tuple[Image.Image, ...]]


def open_channels(data: bytes, name: str, count: int, max_frames: int) -> Channels:
    """Find ``count`` channels in a sound file of the format ``name``.

    They are the samples of a TIFF, scaled by their type's range; or colours and alpha as a PNG or a WebP stores them.

    Raises:
        InvalidImage: it has others.
    """
    found = _of_tiff(data, count, max_frames) if name == "TIFF" else _with_alpha(data, name, count)
    if isinstance(found, Channels):
        return found
    raise InvalidImage(f"The model takes {count} channels, and this {name} picture has {found}. {_way_out(count)}")


def _of_tiff(data: bytes, count: int, max_frames: int) -> Channels | str:
    directory = find_directory(data, max_frames)
    assert directory is not None  # whoever has opened the picture has found it
    layout = Layout.of(directory)
    if layout.samples != count or not can_read_channels(layout):
        return layout.describe()

    def load() -> tuple[Image.Image, ...]:
        orientation = directory.value(Tag.ORIENTATION, 1)
        return tuple(turned(channel, orientation) for channel in read_channels(directory, layout))

    return Channels(-(-channel_bytes(layout) // BYTES_PER_PIXEL), load)


def _with_alpha(data: bytes, name: str, count: int) -> Channels | str:
    if name not in _WITH_ALPHA:
        return "no transparency" if count in {2, 4} else "colours alone"
    image = FORMATS[name].open(io.BytesIO(data))
    grey = image.mode in ("1", "L", "LA", "I;16")
    if not image.has_transparency_data or count != (2 if grey else 4):
        kind = "grey" if grey else "colours"
        return f"{kind} and transparency" if image.has_transparency_data else f"{kind} without transparency"
    return Channels(image.width * image.height, lambda: _bands(image, "LA" if grey else "RGBA"))


def _bands(image: ImageFile.ImageFile, mode: str) -> tuple[Image.Image, ...]:
    image.load()
    bands: tuple[Image.Image, ...] = turned(image.convert(mode), orientation_of(image)).split()
    return bands


def _way_out(count: int) -> str:
    tiff = f"a TIFF of {count} samples per pixel, unsigned ones of 8 or 16 bits"
    others = {2: ", or a grey PNG with transparency", 4: ", or a PNG or WebP with transparency"}.get(count, "")
    return f"Send {tiff}{others}."
