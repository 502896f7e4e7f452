"""What a model of Keras takes: how its pictures are laid out, sized, scaled, and in which precision it computes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from service.errors import ModelLoadError
from service.imaging.preprocess import MOST_CHANNELS, PreprocessSpec
from service.models.info import ModelWarning
from service.models.inputs import with_preset
from service.models.sources.keras_network import is_model, layers_within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import ModelConfig
    from service.vocabulary import ChannelLayout, Precision, Preset

__all__ = ["find_layout", "find_precision", "find_preprocessing"]

_SIZE = 224  # of models that take any
_MOST_PIXELS = 8192  # per side


def find_layout(name: str, model: Any) -> ChannelLayout:
    """Return where the channels are, in pictures and in all activations with rows and columns."""
    # Flatten has an order, too, but nothing of rows and columns comes out of it.
    formats = {
        layer.data_format
        for layer in layers_within(model)
        if getattr(layer, "data_format", None) and type(layer).__name__ != "Flatten"
    }
    if len(formats) > 1:
        raise ModelLoadError(
            f"{name} has layers of channels_first and of channels_last. Build it with one data_format, and save again."
        )
    return "NCHW" if formats == {"channels_first"} else "NHWC"


def _input(name: str, model: Any, layout: ChannelLayout) -> tuple[int | None, int | None, int]:
    """Return height and width, None for any, and channels."""
    if len(model.inputs) != 1:
        names = ", ".join(str(entry.name) for entry in model.inputs)
        raise ModelLoadError(
            f"{name} takes {len(model.inputs)} inputs ({names}); a picture is one. Save a model of one."
        )
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) != 3:
        raise ModelLoadError(f"{name} takes {shape} per picture; rows, columns and channels are needed.")
    channels, height, width = shape if layout == "NCHW" else (shape[2], *shape[:2])
    if channels is None:
        raise ModelLoadError(
            f"{name} takes any number of channels: say which by keras.Input((…, …, 3)), and save again."
        )
    if max(height or 1, width or 1) > _MOST_PIXELS:
        raise ModelLoadError(f"{name} takes pictures of {height}×{width}; at most {_MOST_PIXELS} per side are served.")
    return height, width, channels


def _check_size(name: str, config: ModelConfig, height: int | None, width: int | None) -> None:
    """Refuse another input size than the file's."""
    asked = config.height or config.size, config.width or config.size
    for wanted, fixed in zip(asked, (height, width), strict=True):
        if wanted is not None and fixed is not None and wanted != fixed:
            raise ModelLoadError(
                f"{name} takes pictures of {height}×{width}, as its file says: leave out size, height and width. For "
                "others, build it on keras.Input((None, None, 3)), and save again."
            )


def find_precision(name: str, config: ModelConfig, model: Any) -> Precision:
    """Return the precision of the file, and refuse another: every layer brings what it gets to its own."""
    computed = {layer.compute_dtype for layer in layers_within(model) if layer.weights}
    found: Precision = "bfloat16" if "bfloat16" in computed else "float16" if "float16" in computed else "float32"
    if config.precision not in {found, "auto"}:
        raise ModelLoadError(f"{name} computes in {found}, as its file says: set precision={found}.")
    return found


# -- preprocessing ----------------------------------------------------------------------------------------------------

# By the names that keras.applications give their models; those that scale by themselves are found by doing so.
_FAMILIES: dict[str, Preset] = {
    "vgg16": "caffe",
    "vgg19": "caffe",
    "resnet50": "caffe",
    "resnet101": "caffe",
    "resnet152": "caffe",
    "resnet50v2": "tf",
    "resnet101v2": "tf",
    "resnet152v2": "tf",
    "mobilenet": "tf",
    "mobilenetv2": "tf",
    "inception_v3": "tf",
    "inception_resnet_v2": "tf",
    "xception": "tf",
    "nasnet": "tf",
    "densenet121": "torch",
    "densenet169": "torch",
    "densenet201": "torch",
}
_SCALING = {"Rescaling", "Normalization", "Add", "Divide", "Multiply", "Subtract", "TrueDivide"}
# What may come before: it changes no scale.
_BEFORE = {
    "Cast",
    "CenterCrop",
    "Dropout",
    "GaussianNoise",
    "GetItem",
    "InputLayer",
    "Resizing",
    "Stack",
    "ZeroPadding2D",
}
_UNSAID = ("preset", "scale", "mean", "std")


def find_preprocessing(
    name: str, config: ModelConfig, model: Any, layout: ChannelLayout
) -> tuple[PreprocessSpec, tuple[ModelWarning, ...]]:
    """Say how a picture becomes the input: its size is in the file, its scale only where the model does it itself.

    Raises:
        ModelLoadError: the input is no picture, or the configuration asks for another size than the file has.
    """
    height, width, channels = _input(name, model, layout)
    _check_size(name, config, height, width)
    if not 1 <= channels <= MOST_CHANNELS:
        raise ModelLoadError(f"{name} takes {channels} channels; pictures have 1 to {MOST_CHANNELS}.")
    spec = PreprocessSpec(
        "squash",
        height or _SIZE,
        width or _SIZE,
        interpolation="plain_bilinear",
        scale=1.0 if _scales_by_itself(model) else 1 / 255,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        channels=channels,
    )
    if spec.scale == 1.0:
        return spec, ()
    if any(getattr(config, option) is not None for option in _UNSAID):
        return spec, ()
    family = next((name for name in map(_family, _models(model)) if name in _FAMILIES), None)
    if family is None:
        return spec, (ModelWarning("assumed_normalisation", f"{_NOT_SAID} 0–1 is taken. {_SAY}"),)
    preset = _FAMILIES[family]
    taken = f"It looks like {family} of keras.applications: preset={preset} is taken."
    return with_preset(spec, preset), (ModelWarning("assumed_normalisation", f"{_NOT_SAID} {taken} {_SAY}"),)


_NOT_SAID = "The file does not say how pixels are scaled."
_SAY = (
    "Say what it was trained with: preset=tf, caffe or torch for preprocess_input; scale=1,mean=0,std=1 for 0–255; "
    "mean=0,std=1 for 0–1."
)


def _models(model: Any) -> Iterator[Any]:
    yield model
    yield from (layer for layer in layers_within(model) if is_model(layer))


def _family(model: Any) -> str:
    """Return the name without width and size: ``mobilenetv2_1.00_224`` is ``mobilenetv2``."""
    return re.sub(r"(_(\d+(\.\d+)?|large|mobile))+$", "", str(model.name).lower())


def _scales_by_itself(model: Any) -> bool | None:
    """Whether the first that a model does to its input is to scale it; None where it does nothing that could tell."""
    for operation in getattr(model, "operations", None) or model.layers:
        kind = type(operation).__name__
        if is_model(operation):
            found = _scales_by_itself(operation)
            if found is not None:
                return found
        elif kind not in _BEFORE and not kind.startswith("Random"):
            return kind in _SCALING
    return None
