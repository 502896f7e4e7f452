"""Every classification architecture of torchvision, with its own weights, a local file's, or none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.sources.download import fetch
from service.models.sources.source import Downloads, LoadedModel
from service.models.state_dicts import StateDict, digest, load_into, read_state_dict
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from service.settings import ModelConfig

__all__ = ["architectures", "has", "load"]

_SITE = "https://download.pytorch.org/models"
_IMAGENET_CLASSES = 1000


def architectures() -> list[str]:
    """Return the names of torchvision's classification models."""
    return list(torchvision.models.list_models(module=torchvision.models))


def has(architecture: str) -> bool:
    """Return whether torchvision has a classification model of that name."""
    return architecture in architectures()


def load(config: ModelConfig, downloads: Downloads) -> LoadedModel:
    """Build ``config.architecture`` and fill it.

    ``config.weights``: None fetches torchvision's default weights, an entry name such as ``IMAGENET1K_V1`` fetches that
    one, ``random`` leaves the initial values (for tests and benchmarks), and anything else is a file. A file's number
    of classes is read off its last layer.

    Raises:
        ModelLoadError: the weights cannot be had or do not fit.
    """
    entries = torchvision.models.get_model_weights(config.architecture)
    if config.weights == "random":
        return _random(config.architecture, entries)
    if config.weights is None or config.weights in entries.__members__:
        return _published(
            config.architecture, entries[config.weights] if config.weights else entries.DEFAULT, downloads
        )
    return _from_file(config.architecture, Path(config.weights), entries)


def _random(architecture: str, entries: Any) -> LoadedModel:
    torch.manual_seed(0)
    entry = _first(entries)
    module = _build(architecture, _IMAGENET_CLASSES, aux=False, side=entry.transforms().crop_size[0])
    head = next((layer for layer in reversed(list(module.modules())) if isinstance(layer, nn.Linear | nn.Conv2d)), None)
    if head is not None and not head.weight.any():
        nn.init.normal_(head.weight, std=0.02)  # ViT's head begins at zero: no class would differ from another
    return LoadedModel(module, _preprocess(entry), tuple(entry.meta["categories"]), "random")


def _published(architecture: str, entry: Any, downloads: Downloads) -> LoadedModel:
    state = _fetch(architecture, entry, downloads)
    module = _build(architecture, len(entry.meta["categories"]), aux=_has_aux(state), side=_side(state))
    load_into(module, state, str(entry))
    return LoadedModel(module, _preprocess(entry), tuple(entry.meta["categories"]), entry.name)


def _from_file(architecture: str, file: Path, entries: Any) -> LoadedModel:
    state = read_state_dict(file)
    classes = _count_classes(architecture, state)
    side = _side(state)
    module = _build(architecture, classes, aux=_has_aux(state), side=side)
    load_into(module, state, file.name)
    entry = _first(entries)
    spec = _preprocess(entry)
    if side is not None and side != spec.height:
        spec = replace(spec, height=side, width=side, resize=side)
    labels = tuple(entry.meta["categories"]) if classes == _IMAGENET_CLASSES else None
    return LoadedModel(module, spec, labels, digest(file))


def _first(entries: Any) -> Any:
    """The preset that fine-tuning recipes follow: V1, before torchvision raised the test resolution."""
    return entries.__members__.get("IMAGENET1K_V1", entries.DEFAULT)


def _build(architecture: str, classes: int, *, aux: bool, side: int | None = None) -> nn.Module:
    options: dict[str, Any] = {"num_classes": classes}
    if architecture.startswith("vit_") and side is not None:
        options["image_size"] = side
    if architecture in {"googlenet", "inception_v3"}:
        # Published weights expect inputs rescaled inside the model; a file of another class count is a new training.
        options |= {"aux_logits": aux, "init_weights": False, "transform_input": classes == _IMAGENET_CLASSES}
    module: nn.Module = torchvision.models.get_model(architecture, weights=None, **options)
    return module


def _side(state: StateDict) -> int | None:
    """Read a ViT's input size in pixels off its weights: positions per side times pixels per patch. None for others."""
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None:
        return None
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]  # one position is the class token's


def _has_aux(state: StateDict) -> bool:
    return any(key.startswith(("aux", "AuxLogits")) for key in state)


def _count_classes(architecture: str, state: StateDict) -> int:
    """Read the number of classes off the layers that have 1000 outputs in torchvision's own model."""
    try:
        with torch.device("meta"):
            reference = _build(architecture, _IMAGENET_CLASSES, aux=False).state_dict()
    except NotImplementedError:  # RegNet computes its widths with tensors, whose values the meta device does not keep
        reference = _build(architecture, _IMAGENET_CLASSES, aux=False).state_dict()
    heads = [key for key, value in reference.items() if value.ndim and value.shape[0] == _IMAGENET_CLASSES]
    return next((state[key].shape[0] for key in reversed(heads) if key in state), _IMAGENET_CLASSES)


def _preprocess(entry: Any) -> PreprocessSpec:
    preset = entry.transforms()
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return PreprocessSpec(
        mode="crop",
        height=crop,
        width=crop,
        resize=resize,
        interpolation=preset.interpolation.value,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _fetch(architecture: str, entry: Any, downloads: Downloads) -> StateDict:
    """Return published weights from the cache, or fetch them; the file name carries the checksum that is compared."""
    url = entry.url.replace(_SITE, downloads.mirror.rstrip("/")) if downloads.mirror else entry.url
    cached = downloads.cache_dir / Path(url).name
    if not cached.is_file():
        _download(architecture, url, cached, downloads)
    return read_state_dict(cached)


def _download(architecture: str, url: str, to: Path, downloads: Downloads) -> None:
    instead = f"Give a local file instead: --model {architecture}:FILE.safetensors."
    if not downloads.allowed:
        raise ModelLoadError(
            f"The weights of {architecture!r} are not in {to.parent}, and downloads are off. {instead}"
        )
    try:
        fetch(url, to, checksum=to.stem.rpartition("-")[2])
    except ModelLoadError as error:
        raise ModelLoadError(f"The weights of {architecture!r} are not there: {error.message} {instead}") from error
