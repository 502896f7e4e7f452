"""The input of an exported graph: its size is in the file, how pictures were normalised is not."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from service.errors import ModelLoadError
from service.imaging.preprocess import MOST_CHANNELS, PreprocessSpec
from service.models.info import ModelWarning

if TYPE_CHECKING:
    from pathlib import Path

    from service.settings import ModelConfig

__all__ = ["UnusableGraph", "graph_input"]

_RESIZE = 256 / 224  # of the shorter side to the crop, as ImageNet's recipes have it
_GREY_MEAN, _GREY_STD = (0.449,), (0.226,)  # the averages of ImageNet's


class UnusableGraph(ValueError):
    """A file cannot be read, or what it computes cannot be served; the message is a clause about it."""


def graph_input(
    config: ModelConfig, file: Path, size: tuple[int, int, int], *, fixed: bool, how_to_free: str
) -> tuple[PreprocessSpec, tuple[ModelWarning, ...]]:
    """Say how a picture becomes the input of a graph.

    Args:
        config: of the model.
        file: the artefact.
        size: channels, height and width of its input.
        fixed: whether it takes no other height and width.
        how_to_free: what to export it with so that it does, as a clause.

    Raises:
        ModelLoadError: pictures have no such channels, or the configuration asks for another size.
    """
    channels, height, width = size
    if not 1 <= channels <= MOST_CHANNELS:
        raise ModelLoadError(f"{file.name} takes {channels} channels; pictures have 1 to {MOST_CHANNELS}.")
    if "channels" in config.model_fields_set and config.channels != channels:
        raise ModelLoadError(f"{file.name} takes {channels} channels, not {config.channels}; leave channels out.")
    wanted = config.height or config.size or height, config.width or config.size or width
    if fixed and wanted != (height, width):
        raise ModelLoadError(
            f"{file.name} was exported for pictures of {height}×{width} pixels, not {wanted[0]}×{wanted[1]}. Leave the "
            f"size out, or export it again with {how_to_free}."
        )
    spec = PreprocessSpec("crop", height, width, resize=round(min(height, width) * _RESIZE))
    if channels != 3:
        spec = replace(spec, channels=channels, mean=_GREY_MEAN * channels, std=_GREY_STD * channels)
    if any(getattr(config, name) is not None for name in ("mean", "std", "scale")):
        return spec, ()
    text = (
        f"{file.name} does not say how its pictures were normalised: ImageNet's mean and std are assumed. If it was "
        "trained with something else, set mean and std (mean=0,std=1 for pixels that are only scaled to 0–1)."
    )
    return spec, (ModelWarning("assumed_normalisation", text),)
