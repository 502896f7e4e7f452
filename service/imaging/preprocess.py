"""The picture as the model wants it, together with the geometry that was applied.

Mode "crop" is, pixel for pixel, what torchvision's ``ImageClassification`` preset does up to and including the crop.
Scaling to [0, 1] and normalising by ``mean`` and ``std`` happen in the worker, on the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from PIL import Image

from service.imaging.decode import open_picture
from service.imaging.geometry import Geometry
from service.imaging.plain_bilinear import resize_plainly
from service.vocabulary import ChannelOrder, Decoding, Fitting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from service.imaging.decode import DecodedImage, DecodeLimits, Undecoded

__all__ = ["MOST_CHANNELS", "Interpolation", "Prepared", "PreprocessSpec", "decode_for", "geometry_for", "preprocess"]

MOST_CHANNELS = 64
Interpolation = Literal["nearest", "box", "bilinear", "plain_bilinear", "hamming", "bicubic", "lanczos"]

_NOT_ANTIALIASED = {"nearest", "plain_bilinear"}

# "plain_bilinear" is not Pillow's.
_RESAMPLE: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# Of a JPEG that is reduced, how many pixels are left on a side for one of the resized picture, at least.
_TIMES = 2
_MAX_RESIZED_PIXELS = (
    16_000_000  # beyond this (a 1 × 100,000 strip …) only the view is resampled, not the whole picture
)


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """How a model wants its pictures.

    Attributes:
        mode: "crop": resize the shorter side to ``resize``, cut out the centre (padded with black where the picture is
            smaller). "squash": resize to the input size, whatever the aspect. "pad": resize so that the whole picture
            fits, centred on ``fill``.
        height: of the model's input, in pixels.
        width: likewise.
        resize: shorter side before the crop, in pixels; None crops without resizing. Only for "crop".
        interpolation: of the resize, always antialiased, except "nearest" and "plain_bilinear".
        scale: what a pixel (0–255) is multiplied by, before ``mean`` and ``std``; applied by the worker.
        mean: subtracted per channel, in the model's order of channels, of scaled pixels; applied by the worker.
        std: divided by, per channel; applied by the worker.
        channels: 3 for colours, 1 for their luminance (ITU-R BT.601, as Pillow and torchvision make grey); others for
            those that the picture has, in its order.
        order: of the colours as the model takes them; applied by the worker, before ``mean`` and ``std``.
        crop_rounds_down: whether a crop with an odd rest begins at the lower pixel, as Hugging Face has it, and not at
            the even one, as torchvision has it.
        fill: the colour (RGB, 0–255) around the picture in mode "pad".
        decoding: "reduced" lets a large JPEG be decoded at a half, a quarter or an eighth of its size; see
            docs/performance.md for what that changes.
    """

    mode: Fitting = "crop"
    height: int = 224
    width: int = 224
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: int = 3
    order: ChannelOrder = "RGB"
    fill: tuple[int, int, int] = (0, 0, 0)
    crop_rounds_down: bool = False
    decoding: Decoding = "full"

    def __post_init__(self) -> None:
        """Refuse what cannot work, with a ValueError that names the field."""
        _require(self.mode in get_args(Fitting), f"mode must be one of {get_args(Fitting)}, not {self.mode!r}")
        _require(
            self.height > 0 and self.width > 0, f"height and width must be positive, not {self.height}×{self.width}"
        )
        _require(self.resize is None or self.resize > 0, f"resize must be positive or None, not {self.resize}")
        _require(self.resize is None or self.mode == "crop", f'resize belongs to mode "crop", not {self.mode!r}')
        known = self.interpolation in get_args(Interpolation)
        _require(known, f"interpolation must be one of {get_args(Interpolation)}, not {self.interpolation!r}")
        _require(1 <= self.channels <= MOST_CHANNELS, f"channels must be 1 to {MOST_CHANNELS}, not {self.channels}")
        _require(self.order in get_args(ChannelOrder), f"order must be RGB or BGR, not {self.order!r}")
        _require(
            self.decoding == "full" or self.interpolation not in _NOT_ANTIALIASED,
            f"decoding=reduced needs an antialiased interpolation, such as bilinear, not {self.interpolation}",
        )
        _require(
            self.order == "RGB" or self.channels == 3,
            f"an order is of three channels, not of {self.channels}; leave it out",
        )
        counted = len(self.mean) == len(self.std) == self.channels
        _require(
            counted, f"mean and std must have one number per channel, {self.channels}, not {self.mean}, {self.std}"
        )
        _require(0 < self.scale < np.inf, f"scale must be positive and finite, not {self.scale}")
        _require(len(self.fill) == 3, "fill must have three numbers")
        _require(bool(np.isfinite(self.mean).all()), f"mean must be finite, not {self.mean}")
        _require(all(0 < value < np.inf for value in self.std), f"std must be positive and finite, not {self.std}")
        _require(all(0 <= value <= 255 for value in self.fill), f"fill must lie in 0–255, not {self.fill}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model's input, not yet normalised: ``pixels`` is (height, width, channels) uint8, C-contiguous."""

    pixels: NDArray[np.uint8]
    geometry: Geometry


def decode_for(
    data: bytes, limits: DecodeLimits, spec: PreprocessSpec, opened: Undecoded | None = None
) -> DecodedImage:
    """Decode a picture for a model, which may need no more than a part of a large JPEG's pixels.

    Args:
        data: the file.
        limits: checked from the headers.
        spec: how the model wants it.
        opened: the same file, where its header was read already, with the model's channels.

    Raises:
        InvalidImage, ImageTooLarge: see ``decode``.
    """
    reduces = spec.decoding == "reduced" and spec.channels in (1, 3)
    opened = opened or open_picture(data, limits, spec.channels)
    return opened.decode(partial(_enough, spec) if reduces else None)


def _enough(spec: PreprocessSpec, width: int, height: int) -> tuple[int, int]:
    """Return how many pixels of a picture are needed before it is resized."""
    (columns, _), (rows, _) = _placement(spec, width, height)
    return _TIMES * columns, _TIMES * rows


def geometry_for(spec: PreprocessSpec, width: int, height: int) -> Geometry:
    """Return where an upright picture of ``width`` × ``height`` pixels goes in the model's input."""
    (resized_width, left), (resized_height, top) = _placement(spec, width, height)
    return Geometry(
        image_width=width,
        image_height=height,
        model_width=spec.width,
        model_height=spec.height,
        scale_x=resized_width / width,
        scale_y=resized_height / height,
        left=left,
        top=top,
    )


def preprocess(image: DecodedImage, spec: PreprocessSpec) -> Prepared:
    """Resize and crop or pad a picture to the model's input.

    Example:
        >>> prepared = preprocess(image, PreprocessSpec("crop", 224, 224, resize=256))
        >>> prepared.pixels.shape
        (224, 224, 3)
    """
    placement = _placement(spec, image.width, image.height)
    fitted = [_fit(replace(image, rgb=picture), spec, placement) for picture in _pictures_of(image, spec)]
    pixels = fitted[0] if len(fitted) == 1 else np.concatenate(fitted, axis=2)
    return Prepared(pixels, geometry_for(spec, image.width, image.height))


def _pictures_of(image: DecodedImage, spec: PreprocessSpec) -> tuple[Image.Image, ...]:
    """Return what the model sees of a picture: its colours, its luminance, or its channels one by one."""
    if spec.channels == 3:
        return (image.rgb,)
    return (image.rgb.convert("L"),) if spec.channels == 1 else image.channels


def _fit(image: DecodedImage, spec: PreprocessSpec, placement: _Placement) -> NDArray[np.uint8]:
    """Resize and crop or pad one picture, of mode RGB or L; return its pixels, (height, width, its channels)."""
    (resized_width, left), (resized_height, top) = placement
    if resized_width * resized_height <= _MAX_RESIZED_PIXELS:
        resized = _resample(image.rgb, (resized_width, resized_height), spec.interpolation, image.box)
        corner = (-left, -top)
    else:
        resized, corner = _resize_view(image, spec, placement)
    if resized.size == (spec.width, spec.height) and corner == (0, 0):
        canvas = resized
    else:
        fill = spec.fill if spec.mode == "pad" else 0
        canvas = Image.new("RGB", (spec.width, spec.height), fill).convert(resized.mode)
        canvas.paste(resized, corner)
    return np.array(canvas, order="C").reshape(spec.height, spec.width, -1)


_Placement = tuple[tuple[int, int], tuple[int, int]]


def _placement(spec: PreprocessSpec, width: int, height: int) -> _Placement:
    """Return per axis (x, y) the size of the resized picture and where the model's input begins in it."""
    if spec.mode == "squash":
        return (spec.width, 0), (spec.height, 0)
    if spec.mode == "pad":
        scale = min(spec.width / width, spec.height / height)
        sizes = max(1, round(width * scale)), max(1, round(height * scale))
        return (sizes[0], -((spec.width - sizes[0]) // 2)), (sizes[1], -((spec.height - sizes[1]) // 2))
    resized_width, resized_height = _shorter_side_to(spec.resize, width, height)
    return (
        (resized_width, _crop_offset(resized_width, spec.width, down=spec.crop_rounds_down)),
        (resized_height, _crop_offset(resized_height, spec.height, down=spec.crop_rounds_down)),
    )


def _shorter_side_to(size: int | None, width: int, height: int) -> tuple[int, int]:
    if size is None:
        return width, height
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def _crop_offset(size: int, crop: int, *, down: bool) -> int:
    """Return where a centre crop begins, rounded ``down`` or as torchvision does; negative for padding."""
    if crop > size:
        return -((crop - size) // 2)
    return (size - crop) // 2 if down else round((size - crop) / 2.0)


def _resize_view(
    image: DecodedImage, spec: PreprocessSpec, placement: _Placement
) -> tuple[Image.Image, tuple[int, int]]:
    """Resample only what the model sees: equal up to rounding, at a cost that does not grow with the aspect ratio."""
    x0, y0, x1, y1 = image.box
    (left, columns, *span_x), (top, rows, *span_y) = (
        _seen(size, offset, extent, low, high)
        for (size, offset), extent, low, high in zip(
            placement, (spec.width, spec.height), (x0, y0), (x1, y1), strict=True
        )
    )
    box = (span_x[0], span_y[0], span_x[1], span_y[1])
    return _resample(image.rgb, (columns, rows), spec.interpolation, box), (left, top)


def _resample(
    image: Image.Image, size: tuple[int, int], interpolation: Interpolation, box: tuple[float, float, float, float]
) -> Image.Image:
    """Resize what lies in ``box`` (left, top, right, bottom) to ``size``, width first."""
    if interpolation == "plain_bilinear":
        return resize_plainly(image, size, box)
    return image.resize(size, _RESAMPLE[interpolation], box)


def _seen(size: int, offset: int, extent: int, low: float, high: float) -> tuple[int, int, float, float]:
    """Return, for one axis, where in the input the picture begins, how many pixels it fills, and its source span."""
    first, last = max(offset, 0), min(offset + extent, size)
    scale = (high - low) / size
    return first - offset, last - first, low + first * scale, min(high, low + last * scale)
