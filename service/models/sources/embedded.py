"""The models that ship with the package: they need no download and answer within seconds of the start."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from service.imaging.preprocess import PreprocessSpec
from service.models.labels import read_labels
from service.models.shapes_net import INPUT_SIZE, MEAN, STD, ShapesNet
from service.models.sources.source import Downloads, LoadedModel, refuse_weights
from service.models.state_dicts import digest, load_file_into

if TYPE_CHECKING:
    from service.settings import ModelConfig

__all__ = ["architectures", "has", "load"]

_FILES = Path(__file__).parents[2] / "demo"


def architectures() -> tuple[str, ...]:
    """Return the names of the embedded models."""
    return ("shapes", "shapes-shortcut")


def has(architecture: str) -> bool:
    """Return whether an embedded model has that name."""
    return architecture in architectures()


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Load an embedded model.

    Raises:
        ModelLoadError: the configuration asks for other weights.
    """
    refuse_weights(config)
    file = _FILES / f"{config.architecture}.safetensors"
    labels = read_labels(_FILES / "labels.txt")
    module = ShapesNet(num_classes=len(labels))
    load_file_into(module, file)
    preprocess = PreprocessSpec(
        mode="crop",
        height=INPUT_SIZE,
        width=INPUT_SIZE,
        resize=INPUT_SIZE,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
    )
    return LoadedModel(module, preprocess, labels, digest(file))
