"""How a picture becomes a model's input: what its source says, and what the configuration changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from service.errors import ModelLoadError
from service.models.dead_leaves import dead_leaves
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from service.imaging.preprocess import PreprocessSpec
    from service.settings import ModelConfig
    from service.vocabulary import ChannelOrder, Preset

__all__ = ["Probe", "input_spec", "with_preset"]

# These have a default, which is not to override what a source knows.
_WITH_DEFAULT = ("channels", "order")
# These have none.
_IF_GIVEN = ("mode", "interpolation", "scale", "decoding")
_CHUNK = 4
_LEAVES = 24
_MOST_ALONE = 8  # of many channels, those that are tried alone


def input_spec(config: ModelConfig, source: PreprocessSpec) -> tuple[PreprocessSpec, tuple[ModelWarning, ...]]:
    """Apply the configuration to what the source says, and tell what had to be assumed.

    A new size alone keeps the source's ratio of resize to crop; of a size with unequal sides, that of the side which
    grows most, so that no black border comes in.

    Raises:
        ModelLoadError: no picture can be brought to such an input, or the numbers are on another scale.
    """
    if config.preset is not None:
        source = with_preset(source, config.preset)
    changes = {key: getattr(config, key) for key in _WITH_DEFAULT if key in config.model_fields_set} | {
        key: value for key in _IF_GIVEN if (value := getattr(config, key)) is not None
    }
    channels, order = changes.get("channels", source.channels), changes.get("order", source.order)
    moments, warnings = _mean_and_std(config, source, channels, turned=order != source.order)
    try:
        spec = replace(source, **changes, **moments, **_size(config, source))  # type: ignore[arg-type]
    except ValueError as error:
        raise ModelLoadError(f"Model {config.name!r} has impossible preprocessing: {error}.") from error
    _check_scale(config.name, spec)
    return spec, (*warnings, *_other_order(config, spec))


# Of ImageNet's colours, in 0–1: torchvision's, CLIP's and Caffe's (104, 117, 123 of blue, green, red).
_KNOWN_MEANS = ((0.485, 0.456, 0.406), (0.4815, 0.4578, 0.4082), (123.68 / 255, 116.779 / 255, 103.939 / 255))
_SAME_MEAN = 0.004  # a level of 255, as 104 is for 103.939


def _other_order(config: ModelConfig, spec: PreprocessSpec) -> Iterator[ModelWarning]:
    """Warn of a configured mean that is ImageNet's, in the order of colours that the model does not take."""
    for known in _KNOWN_MEANS if config.mean is not None and spec.channels == 3 else ():
        backwards = known if spec.order == "BGR" else known[::-1]
        if all(abs(mine - other) < _SAME_MEAN for mine, other in zip(spec.mean, backwards, strict=True)):
            other = "RGB" if spec.order == "BGR" else "BGR"
            yield ModelWarning(
                "order_suspected",
                f"Its mean {_slashed(spec.mean)} is ImageNet's in the order {other}, and the model takes {spec.order}. "
                f"Set order={other} if that is what it was trained with, else turn mean and std around.",
            )
            return


# What keras.applications' preprocess_input does, by its mode: of pixels times scale, and in which order of colours.
_PRESETS: dict[Preset, tuple[float, tuple[float, ...], tuple[float, ...], ChannelOrder]] = {
    "tf": (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "RGB"),
    "caffe": (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR"),
    "torch": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB"),
}


def with_preset(spec: PreprocessSpec, preset: Preset) -> PreprocessSpec:
    """Return ``spec`` as a mode of ``preprocess_input`` normalises; averaged for other channels than colours."""
    scale, mean, std, order = _PRESETS[preset]
    if spec.channels != 3:
        mean, std, order = (sum(mean) / 3,) * spec.channels, (sum(std) / 3,) * spec.channels, "RGB"
    return replace(spec, scale=scale, mean=mean, std=std, order=order)


def _size(config: ModelConfig, source: PreprocessSpec) -> dict[str, object]:
    """Return height, width and resize where they change."""
    height = config.height or config.size or source.height
    width = config.width or config.size or source.width
    if (config.mode or source.mode) != "crop":
        return {"height": height, "width": width, "resize": None}
    resize = config.resize or source.resize
    if config.resize is None and resize is not None:
        resize = round(resize * max(height / source.height, width / source.width))
    return {"height": height, "width": width, "resize": resize}


def _mean_and_std(
    config: ModelConfig, source: PreprocessSpec, channels: int, *, turned: bool
) -> tuple[dict[str, tuple[float, ...]], tuple[ModelWarning, ...]]:
    """Return mean and std in the model's channels, and what was assumed of them.

    What is configured is in the model's order, and one number for all is that for each; the source's goes with its
    colours, which may be ``turned``, and is averaged for any other number of channels.
    """
    found: dict[str, tuple[float, ...]] = {}
    averaged = []
    for key in ("mean", "std"):
        configured, known = getattr(config, key), getattr(source, key)
        if configured is None and channels != len(known):
            average = sum(known) / len(known)
            averaged.append(f"{key}={average:.4g}")
            configured = (average,) * channels
        elif configured is None:
            configured = known[::-1] if turned else known
        elif len(set(configured)) == 1:
            configured = configured[:1] * channels
        found[key] = configured
    if not averaged:
        return found, ()
    text = (
        f"It takes {_channels(channels)}, and no normalisation is configured for it: the average of the source's is "
        f"taken, {', '.join(averaged)}. Say what it was trained with, mean=0,std=1 for pixels that are "
        "only scaled to 0–1."
    )
    return found, (ModelWarning("assumed_normalisation", text),)


def _channels(count: int) -> str:
    return "one channel" if count == 1 else f"{count} channels"


def _check_scale(name: str, spec: PreprocessSpec) -> None:
    """Refuse a mean and std beyond the pixels: everything would be black to the model, and answered all the same.

    Raises:
        ModelLoadError: they are; the message has them divided by 255.
    """
    white = _white(spec)
    if max(map(abs, spec.mean)) <= white and max(spec.std) <= white:
        return
    if white != 1:
        raise ModelLoadError(
            f"Model {name!r} has mean {_slashed(spec.mean)} and std {_slashed(spec.std)}; they are of pixels scaled by "
            f"{spec.scale:.6g}, which reach from 0 to {white:.6g}."
        )
    # Beside a mean in 0–255, a std below 1 is of pixels in 0–1 already.
    mean, std = (
        [value / 255 for value in values] if max(map(abs, values)) >= 1 else values for values in (spec.mean, spec.std)
    )
    raise ModelLoadError(
        f"Model {name!r} has mean {_slashed(spec.mean)} and std {_slashed(spec.std)}, as of pixels in 0–255; here they "
        f"are of pixels scaled to 0–1. Divided by 255, that is mean={_slashed(mean)},std={_slashed(std)}."
    )


def _white(spec: PreprocessSpec) -> float:
    """Return what a white pixel is before mean and std: 1, unless pixels are scaled in another way."""
    return 255 * spec.scale


def _slashed(values: tuple[float, ...] | list[float]) -> str:
    return "/".join(f"{value:.6g}" for value in values)


@dataclass(frozen=True)
class Probe:
    """What a model is tried with at load, on its device and in its dtype; the same at every start.

    Attributes:
        spec: of the model's input.
        device: where the model is.
        dtype: what it computes in.
        channels_last: whether a pixel's channels lie side by side in memory, as they do in pictures.
    """

    spec: PreprocessSpec
    device: torch.device
    dtype: torch.dtype
    channels_last: bool = True

    @cached_property
    def noise(self) -> Tensor:
        """Two different random images, (2, C, H, W)."""
        return self.random(2)

    def random(self, count: int) -> Tensor:
        """Return different random images, (count, C, H, W)."""
        size = (count, self.spec.channels, self.spec.height, self.spec.width)
        return self._normalised(torch.rand(size, generator=torch.Generator().manual_seed(0)))

    def pictures(self) -> Iterator[Tensor]:
        """Yield some twenty images as different as can be, (N, C, H, W) a few at a time."""
        for chunk in torch.split(_pictures(self.spec), _CHUNK):
            yield self._normalised(chunk)

    def leaves(self) -> Iterator[Tensor]:
        """Yield two dozen pictures of random things before each other, (N, C, H, W) a few at a time."""
        pictures = dead_leaves(_LEAVES, self.spec.channels, self.spec.height, self.spec.width)
        for chunk in torch.split(pictures, _CHUNK):
            yield self._normalised(chunk)

    def _normalised(self, pictures: Tensor) -> Tensor:
        mean, std = torch.tensor(self.spec.mean).view(-1, 1, 1), torch.tensor(self.spec.std).view(-1, 1, 1)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return ((pictures * _white(self.spec) - mean) / std).to(self.device, self.dtype, memory_format=layout)


def _pictures(spec: PreprocessSpec) -> Tensor:
    """Plain colours, black and white among them, gradients, stripes, and noise: coarse to fine, faint and strong."""
    height, width, channels = spec.height, spec.width, spec.channels
    one_alone = torch.eye(max(3, channels))[:_MOST_ALONE, :channels]
    levels = torch.tensor([0.0, 1.0, 0.5])[:, None].expand(-1, channels)
    plain = torch.cat([levels, one_alone, 1 - one_alone])
    across = torch.linspace(0, 1, width).expand(height, width)
    down = torch.linspace(0, 1, height)[:, None].expand(height, width)
    patterns = torch.stack([across, 1 - across, down, 1 - down, (across * 8 % 1).round(), (down * 8 % 1).round()])
    pictures = [
        plain[:, :, None, None].expand(-1, -1, height, width),
        patterns[:, None].expand(-1, channels, -1, -1),
    ]
    generator = torch.Generator().manual_seed(1)
    for cells, contrast in product((2, 5, 16, 64), (0.2, 1.0)):
        noise = torch.rand(1, channels, cells, cells, generator=generator)
        pictures.append(0.5 + contrast * (functional.interpolate(noise, (height, width), mode="bilinear") - 0.5))
    return torch.cat(pictures)
