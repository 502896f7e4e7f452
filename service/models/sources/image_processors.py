"""The image processors of Hugging Face, read from their JSON: the same steps, or a warning that says what differs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.errors import ModelLoadError
from service.imaging.preprocess import Interpolation, PreprocessSpec
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.vocabulary import Fitting

__all__ = ["read_processor"]

_RESAMPLING: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
    4: "box",
    5: "hamming",
}
_CHANGES = ("do_pad", "do_thumbnail", "do_align_long_axis", "do_split_image", "do_crop_margin")
_CONVNEXT_SQUASHES_FROM = 384
_PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def read_processor(
    processor: Mapping[str, Any] | None, model: Mapping[str, Any], name: str
) -> tuple[PreprocessSpec, list[ModelWarning]]:
    """Say how pictures are prepared for a model.

    Args:
        processor: what ``preprocessor_config.json`` holds; None where there is none.
        model: what ``config.json`` holds.
        name: of the folder, for messages.

    Raises:
        ModelLoadError: the numbers make no sense.
    """
    if processor is None:
        text = (
            f"{name} has no preprocessor_config.json: pictures are squashed to its size, with ImageNet's mean and std. "
            "Set mode, mean and std to what it was trained with."
        )
        processor = {"image_mean": _IMAGENET[0], "image_std": _IMAGENET[1]}
        assumed = [ModelWarning("preprocessing_assumed", text)]
    else:
        assumed = []
    try:
        spec, notes = _read(processor, model)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ModelLoadError(f"The preprocessor_config.json of {name} makes no sense: {error}.") from error
    return spec, [*assumed, *(ModelWarning("preprocessing_differs", note) for note in notes)]


def _read(processor: Mapping[str, Any], model: Mapping[str, Any]) -> tuple[PreprocessSpec, list[str]]:
    mode, height, width, resize, notes = _fitting(processor, model)
    channels = 1 if model.get("num_channels") == 1 else 3
    scale, mean, std = _values(processor, channels)
    notes += [f"It also asks for {key}, which is not done here." for key in _CHANGES if processor.get(key) is True]
    spec = PreprocessSpec(
        mode=mode,
        height=height,
        width=width,
        resize=resize,
        interpolation=_RESAMPLING[int(processor.get("resample", 2) or 0)],
        scale=scale,
        mean=mean,
        std=std,
        channels=channels,
        crop_rounds_down=True,
        order="BGR" if processor.get("do_flip_channel_order") and channels == 3 else "RGB",
    )
    return spec, notes


_Fit = tuple["Fitting", int, int, int | None, list[str]]


def _fitting(processor: Mapping[str, Any], model: Mapping[str, Any]) -> _Fit:
    """Return mode, height, width, the shorter side before the crop, and what is different here."""
    size = processor.get("size", model.get("image_size", 224))
    crop = _sides(processor["crop_size"]) if processor.get("do_center_crop") and "crop_size" in processor else None
    if processor.get("do_resize") is False:
        height, width = crop or _sides(model.get("image_size", 224))
        return "crop", height, width, None, []
    shorter = size.get("shortest_edge") if isinstance(size, dict) else None
    if shorter is None:
        return _squashed(_sides(size), crop)
    shorter = int(shorter)
    kind = str(processor.get("image_processor_type", processor.get("feature_extractor_type", "")))
    if "crop_pct" in processor:  # ConvNeXt's
        if shorter >= _CONVNEXT_SQUASHES_FROM:
            return "squash", shorter, shorter, None, []
        return "crop", shorter, shorter, int(shorter / (processor["crop_pct"] or 1)), []
    if kind.startswith("Levit"):
        shorter = int(256 / 224 * shorter)
    if crop is None:
        text = (
            f"It resizes the shorter side to {shorter} pixels and keeps the rest, whatever the shape; here the middle "
            f"{shorter}×{shorter} pixels are taken."
        )
        return "crop", shorter, shorter, shorter, [text]
    return "crop", *crop, shorter, []


def _squashed(sides: tuple[int, int], crop: tuple[int, int] | None) -> _Fit:
    if crop is None or crop == sides:
        return "squash", *sides, None, []
    text = (
        f"It squashes a picture to {sides[0]}×{sides[1]} pixels and takes the middle {crop[0]}×{crop[1]}; here all of "
        "it is squashed to that."
    )
    return "squash", *crop, None, [text]


def _sides(size: Any) -> tuple[int, int]:
    """Return height and width of a size as it is written: a number, two, or a table."""
    if isinstance(size, dict):
        if "height" in size:
            return int(size["height"]), int(size["width"])
        side = int(size["shortest_edge"])
        return side, side
    if isinstance(size, list | tuple):
        height, width = size
        return int(height), int(width)
    return int(size), int(size)


def _values(processor: Mapping[str, Any], channels: int) -> tuple[float, tuple[float, ...], tuple[float, ...]]:
    """Return what pixels are multiplied by, and the mean and std of the result."""
    scale = float(processor.get("rescale_factor", 1 / 255)) if processor.get("do_rescale", True) else 1.0
    mean, std = (_numbers(processor.get(key), default) for key, default in _moments())
    if processor.get("do_normalize") is False:
        mean, std = _PLAIN
    elif processor.get("include_top"):  # EfficientNet's head is given values that are divided by std once more
        std = tuple(value * value for value in std)
    if processor.get("rescale_offset"):  # of EfficientNet and ViViT: to −1–1
        mean = tuple(value + 1 for value in mean)
    if channels != len(mean):
        mean, std = (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels
    return scale, mean, std


def _moments() -> tuple[tuple[str, tuple[float, ...]], ...]:
    return ("image_mean", (0.5, 0.5, 0.5)), ("image_std", (0.5, 0.5, 0.5))


def _numbers(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    numbers = tuple(float(each) for each in value) if isinstance(value, list | tuple) else (float(value),)
    return numbers * 3 if len(numbers) == 1 else numbers
