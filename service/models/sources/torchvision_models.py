"""Every classification architecture of torchvision, with its own weights, a local file's, or none."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.info import ModelWarning
from service.models.sources.download import fetch
from service.models.sources.source import Downloads, LoadedModel, refuse_options
from service.models.state_dicts import StateDict, digest, load_into, read_weights
from service.models.torchvision_adapter import torchvision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.settings import ModelConfig

__all__ = ["architectures", "has", "load"]

_SITE = "https://download.pytorch.org/models"
_IMAGENET_CLASSES = 1000
_OF_CAFFE = re.compile(r"caffe|bgr|msra", re.IGNORECASE)  # MSRA published the first ResNets, for Caffe
_WITH_AUXILIARY_HEADS = {"googlenet", "inception_v3"}  # and with transform_input


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
    if config.architecture not in _WITH_AUXILIARY_HEADS:
        refuse_options(config, "transform_input")
    entries = torchvision.models.get_model_weights(config.architecture)
    published = config.weights is None or config.weights in entries.__members__
    if not published and config.weights != "random":
        return _from_file(config, Path(str(config.weights)), entries)
    refuse_options(config, "use_ema")
    if not published:
        return _random(config, entries)
    return _published(config, entries[config.weights] if config.weights else entries.DEFAULT, downloads)


def _random(config: ModelConfig, entries: Any) -> LoadedModel:
    torch.manual_seed(0)
    entry = _first(entries)
    side = entry.transforms().crop_size[0]
    module = _build(config.architecture, side=side, transform_input=config.transform_input is not False)
    head = next((layer for layer in reversed(list(module.modules())) if isinstance(layer, nn.Linear | nn.Conv2d)), None)
    if head is not None and not head.weight.any():
        nn.init.normal_(head.weight, std=0.02)  # ViT's head begins at zero: no class would differ from another
    labels = tuple(entry.meta["categories"])
    return LoadedModel(module, _preprocess(entry), labels, "random", transform=entry.transforms)


def _published(config: ModelConfig, entry: Any, downloads: Downloads) -> LoadedModel:
    file = _fetch(config.architecture, entry, downloads)
    filled = _filled(config, file, transform_input=config.transform_input is not False)
    labels = tuple(entry.meta["categories"])
    return LoadedModel(filled.module, _preprocess(entry), labels, entry.name, transform=entry.transforms)


def _from_file(config: ModelConfig, file: Path, entries: Any) -> LoadedModel:
    filled = _filled(config, file, transform_input=_transforms_input(config))
    version = digest(file)
    known = _entry_of(version, entries)
    entry = known or _first(entries)
    spec, transform = _preprocess(entry), entry.transforms
    if filled.side is not None and filled.side != spec.height:
        spec = replace(spec, height=filled.side, width=filled.side, resize=filled.side)
        transform = partial(transform, crop_size=filled.side, resize_size=filled.side)
    labels = tuple(_first(entries).meta["categories"]) if filled.classes == _IMAGENET_CLASSES else None
    warnings = (*filled.warnings, *_assumptions(config, file.name, named=labels is not None))
    said = filled.warnings if known else warnings
    return LoadedModel(filled.module, spec, labels, version, said, transform=transform)


def _entry_of(version: str, entries: Any) -> Any:
    """Return the entry whose published file has this digest, or None."""
    return next((entry for entry in entries if version.startswith(_checksum(entry.url)[: len(version)])), None)


def _transforms_input(config: ModelConfig) -> bool:
    """Decide whether the network brings its input from ImageNet's scale to −1–1, where nothing says so.

    Fine-tuning begins with the published weights, whose constructor sets it. Who configures −1–1 has said that the
    input comes that way.
    """
    if config.transform_input is not None:
        return config.transform_input
    return not (config.mean == config.std == (0.5, 0.5, 0.5))


def _assumptions(config: ModelConfig, name: str, *, named: bool) -> Iterator[ModelWarning]:
    """Say what a file of unknown origin does not tell, and what was taken to be so."""
    if config.architecture in _WITH_AUXILIARY_HEADS and config.transform_input is None:
        chosen, because = "true", "as fine-tuning from the published weights leaves it"
        if not _transforms_input(config):
            chosen, because = "false", "since mean and std of 0.5 do the same"
        yield ModelWarning(
            "transform_input_assumed",
            f"{name} does not say whether {config.architecture} was trained with transform_input. Assumed is {chosen}, "
            f"{because}. Set transform_input to what it was trained with.",
        )
    preprocessing_is_known = config.mean or config.std or config.order != "RGB"
    if not preprocessing_is_known and _OF_CAFFE.search(name):
        yield ModelWarning(
            "bgr_suspected",
            f"By its name, {name} comes from Caffe, whose networks take BGR pictures of 0–255 less a mean; it is given "
            "ImageNet's mean and std, and RGB. Set order=BGR, mean and std as it was trained with.",
        )
    if named and config.labels is None:
        yield ModelWarning(
            "labels_assumed",
            f"{name} has {_IMAGENET_CLASSES} classes, which are taken to be ImageNet's. If they are others, name a "
            "file with their labels: labels=FILE.",
        )


@dataclass(frozen=True)
class _Filled:
    """A network with the weights of a file. ``side`` is a ViT's input size in pixels, None for others."""

    module: nn.Module
    classes: int
    side: int | None
    warnings: tuple[ModelWarning, ...]


def _filled(config: ModelConfig, file: Path, *, transform_input: bool) -> _Filled:
    reference = _reference(config.architecture)
    weights = read_weights(file, reference, use_ema=config.use_ema)
    state = weights.state
    if config.architecture in _WITH_AUXILIARY_HEADS:  # evaluation runs none, and fine-tuning may have left them alone
        state = {key: value for key, value in state.items() if not key.startswith(("aux1.", "aux2.", "AuxLogits."))}
    classes, side = _count_classes(reference, state), _side(state)
    module = _build(config.architecture, classes, side=side, transform_input=transform_input)
    _take_channels(module, state)
    load_into(module, state, file.name)
    return _Filled(module, classes, side, weights.warnings)


def _take_channels(module: nn.Module, state: StateDict) -> None:
    """Let the first convolution take as many channels as its weights do; for grey pictures, it is replaced."""
    name, first = next((name, part) for name, part in module.named_modules() if isinstance(part, nn.Conv2d))
    weight = state.get(f"{name}.weight")
    if weight is None or weight.ndim != first.weight.ndim or weight.shape[1] == first.weight.shape[1]:
        return
    size: Any = {"kernel_size": first.kernel_size, "stride": first.stride, "padding": first.padding}
    replaced = nn.Conv2d(weight.shape[1], first.out_channels, bias=first.bias is not None, **size)
    module.set_submodule(name, replaced)


def _first(entries: Any) -> Any:
    """The preset that fine-tuning recipes follow: V1, before torchvision raised the test resolution."""
    return entries.__members__.get("IMAGENET1K_V1", entries.DEFAULT)


def _build(
    architecture: str,
    classes: int = _IMAGENET_CLASSES,
    *,
    aux: bool = False,
    side: int | None = None,
    transform_input: bool = True,
) -> nn.Module:
    options: dict[str, Any] = {"num_classes": classes}
    if architecture.startswith("vit_") and side is not None:
        options["image_size"] = side
    if architecture in _WITH_AUXILIARY_HEADS:
        options |= {"aux_logits": aux, "init_weights": False, "transform_input": transform_input}
    module: nn.Module = torchvision.models.get_model(architecture, weights=None, **options)
    return module


def _reference(architecture: str) -> StateDict:
    """Return names and shapes of all that the architecture has, with torchvision's own number of classes."""
    try:
        with torch.device("meta"):
            return _build(architecture, aux=True).state_dict()
    except NotImplementedError:  # RegNet computes its widths with tensors, whose values the meta device does not keep
        return _build(architecture).state_dict()


def _side(state: StateDict) -> int | None:
    """Read a ViT's input size in pixels off its weights: positions per side times pixels per patch. None for others."""
    positions, patches = state.get("encoder.pos_embedding"), state.get("conv_proj.weight")
    if positions is None or patches is None:
        return None
    return math.isqrt(positions.shape[1] - 1) * patches.shape[-1]  # one position is the class token's


def _count_classes(reference: StateDict, state: StateDict) -> int:
    """Read the number of classes off the layers that have 1000 outputs in torchvision's own model."""
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


def _checksum(url: str) -> str:
    """Return how the SHA-256 of a published file begins; its name carries it."""
    return Path(url).stem.rpartition("-")[2]


def _fetch(architecture: str, entry: Any, downloads: Downloads) -> Path:
    """Return a file of published weights from the cache, where it is fetched to and compared with its checksum."""
    url = entry.url.replace(_SITE, downloads.mirror.rstrip("/")) if downloads.mirror else entry.url
    cached = downloads.cache_dir / Path(url).name
    if not cached.is_file():
        _download(architecture, url, cached, downloads)
    return cached


def _download(architecture: str, url: str, to: Path, downloads: Downloads) -> None:
    instead = f"Give a local file instead: --model {architecture}:FILE.safetensors."
    if not downloads.allowed:
        raise ModelLoadError(
            f"The weights of {architecture!r} are not in {to.parent}, and downloads are off. {instead}"
        )
    try:
        fetch(url, to, checksum=_checksum(to.name))
    except ModelLoadError as error:
        raise ModelLoadError(f"The weights of {architecture!r} are not there: {error.message} {instead}") from error
