"""How timm prepares pictures for evaluation, as our own preprocessing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast, get_args

from service.imaging.preprocess import Interpolation, PreprocessSpec
from service.models.info import ModelWarning
from service.models.sources.libraries import library

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL.Image import Image
    from torch import Tensor, nn

__all__ = ["find_preprocessing", "find_transform"]


def find_preprocessing(pretrained: Mapping[str, Any], module: nn.Module) -> tuple[PreprocessSpec, list[ModelWarning]]:
    """Say how timm prepares pictures for evaluation, and where that is not exactly possible."""
    timm_data = library("timm.data", "timm")
    resolved = timm_data.resolve_data_config(pretrained_cfg=dict(pretrained))
    channels, height, width = resolved["input_size"]
    side = _built_for(module)
    if side is not None:
        height, width = side
    mode, resize, note = _fitting(resolved["crop_mode"], resolved["crop_pct"], height, width)
    warnings = [ModelWarning("preprocessing_differs", note)] if note else []
    interpolation = resolved["interpolation"]
    if interpolation not in get_args(Interpolation):  # "random", of training
        interpolation = "bilinear"
    mean, std = (_per_channel(resolved[key], channels) for key in ("mean", "std"))
    fill = tuple(round(255 * value) for value in resolved["mean"])
    return (
        PreprocessSpec(
            mode=cast("Any", mode),
            height=height,
            width=width,
            resize=resize,
            interpolation=interpolation,
            mean=mean,
            std=std,
            channels=channels,
            fill=cast("tuple[int, int, int]", fill if mode == "pad" and len(fill) == 3 else (0, 0, 0)),
        ),
        warnings,
    )


def find_transform(pretrained: Mapping[str, Any], size: tuple[int, int]) -> Callable[[Image], Tensor]:
    """Return timm's own transform for evaluation, to an input of the height and width ``size``."""
    timm_data = library("timm.data", "timm")
    resolved = timm_data.resolve_data_config(pretrained_cfg=dict(pretrained))
    resolved["input_size"] = (resolved["input_size"][0], *size)
    return cast("Callable[[Image], Tensor]", timm_data.create_transform(**resolved, is_training=False))


def _built_for(module: nn.Module) -> tuple[int, int] | None:
    """Return the height and width that a network with patches was built for; None for others."""
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) and len(size) == 2 else None


def _fitting(crop_mode: str, crop: float, height: int, width: int) -> tuple[str, int | None, str | None]:
    """Translate timm's way to fit a picture: the mode, the shorter side before the crop, and what is different."""
    if crop_mode == "center":
        if height == width:
            return "crop", math.floor(height / crop), None
        note = None
        if crop != 1:
            covered = f"{math.floor(height / crop)}×{math.floor(width / crop)}"
            note = (
                f"timm resizes a picture until it covers {covered} pixels; here its shorter side is resized, which for "
                "some shapes shows another part."
            )
        return "crop", math.floor(max(height, width) / crop), note
    mode = "squash" if crop_mode == "squash" else "pad"
    if crop == 1:
        return mode, None, None
    text = (
        f"timm fits a picture ({crop_mode}) and then takes the middle {crop:.4g} of it; here the model sees all of it."
    )
    return mode, None, text


def _per_channel(values: Any, channels: int) -> tuple[float, ...]:
    """Return one per channel; for others than colours their average, as timm adapts first convolutions."""
    numbers = tuple(float(value) for value in values)
    if channels != len(numbers):
        return (sum(numbers) / len(numbers),) * channels
    return numbers
