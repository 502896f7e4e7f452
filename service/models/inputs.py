"""How a picture becomes a model's input: what its source says, and what the configuration changes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from service.errors import ModelLoadError
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from service.imaging.preprocess import PreprocessSpec
    from service.settings import ModelConfig
    from service.vocabulary import ChannelOrder, Preset

__all__ = ["Probe", "input_spec", "takes_channels", "with_preset"]

# These have a default, which is not to override what a source knows.
_WITH_DEFAULT = ("channels", "order")
_CHUNK = 4


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
        key: value for key in ("mode", "interpolation", "scale") if (value := getattr(config, key)) is not None
    }
    channels, order = changes.get("channels", source.channels), changes.get("order", source.order)
    if channels not in {1, 3}:
        raise ModelLoadError(f"Model {config.name!r} {takes_channels(channels)}")
    moments, warnings = _mean_and_std(config, source, channels, turned=order != source.order)
    try:
        spec = replace(source, **changes, **moments, **_size(config, source))  # type: ignore[arg-type]
    except ValueError as error:
        raise ModelLoadError(f"Model {config.name!r} has impossible preprocessing: {error}.") from error
    _check_scale(config.name, spec)
    return spec, warnings


# What keras.applications' preprocess_input does, by its mode: of pixels times scale, and in which order of colours.
_PRESETS: dict[Preset, tuple[float, tuple[float, ...], tuple[float, ...], ChannelOrder]] = {
    "tf": (1 / 127.5, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "RGB"),
    "caffe": (1.0, (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), "BGR"),
    "torch": (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "RGB"),
}


def with_preset(spec: PreprocessSpec, preset: Preset) -> PreprocessSpec:
    """Return ``spec`` with the normalisation of a mode of ``preprocess_input``; averaged for one channel."""
    scale, mean, std, order = _PRESETS[preset]
    if spec.channels == 1:
        mean, std, order = (sum(mean) / 3,), (sum(std) / 3,), "RGB"
    return replace(spec, scale=scale, mean=mean, std=std, order=order)


def takes_channels(channels: int) -> str:
    """Say why a model of so many channels cannot be served, and what to do."""
    return (
        f"takes {channels} channels; a picture has 3 here, or 1 as grey (channels=1). Wrap it in a module of your own "
        f"that makes its {channels} channels of (N, 3, H, W), and serve that."
    )


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

    What is configured is in the model's order; the source's goes with its colours, which may be ``turned``, and is
    averaged for grey.
    """
    found: dict[str, tuple[float, ...]] = {}
    averaged = []
    for key in ("mean", "std"):
        configured, known = getattr(config, key), getattr(source, key)
        if configured is None and channels == 1 and len(known) > 1:
            configured = (sum(known) / len(known),)
            averaged.append(f"{key}={configured[0]:.4g}")
        elif configured is None:
            configured = known[::-1] if turned else known
        elif channels == 1 and len(set(configured)) == 1:
            configured = configured[:1]
        found[key] = configured
    if not averaged:
        return found, ()
    text = (
        f"It takes one channel, and no normalisation is configured for it: the average of the source's is taken, "
        f"{', '.join(averaged)}. Say what it was trained with, mean=0,std=1 for pixels that are only scaled to 0–1."
    )
    return found, (ModelWarning("assumed_normalisation", text),)


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
    """What a model is tried with at load, on its device and in its dtype; the same at every start."""

    spec: PreprocessSpec
    device: torch.device
    dtype: torch.dtype

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

    def _normalised(self, pictures: Tensor) -> Tensor:
        mean, std = torch.tensor(self.spec.mean).view(-1, 1, 1), torch.tensor(self.spec.std).view(-1, 1, 1)
        return ((pictures * _white(self.spec) - mean) / std).to(self.device, self.dtype)


def _pictures(spec: PreprocessSpec) -> Tensor:
    """Plain colours, black and white among them, gradients, stripes, and noise: coarse to fine, faint and strong."""
    height, width, channels = spec.height, spec.width, spec.channels
    plain = torch.cat([torch.tensor([[0.0] * 3, [1.0] * 3, [0.5] * 3]), torch.eye(3), 1 - torch.eye(3)])[:, :channels]
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
