"""From a configuration to a loaded model: the network of its source on a device, checked, and what is known of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.cam.catalogue import probe_layers
from service.cam.derivatives import cause_of
from service.cam.eager import EagerNetwork
from service.cam.explain import predict
from service.cam.heads import find_heads
from service.errors import ModelLoadError, ModelOutputError
from service.models.defaults import default_layer, recommended
from service.models.fitness import in_eval_mode, try_methods, why_rows_differ
from service.models.host import ModelHost
from service.models.info import ModelInfo
from service.models.labels import read_labels
from service.models.sources.table import find_source

if TYPE_CHECKING:
    from torch import nn

    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.imaging.preprocess import PreprocessSpec
    from service.models.sources.source import Downloads, LoadedModel
    from service.settings import ModelConfig

__all__ = ["load_model"]

log = logging.getLogger("camserve.models")

# How much an image's logits may move, relative to their range, when another image is computed beside it: rounding.
_ROW_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


def load_model(config: ModelConfig, device: str, downloads: Downloads) -> ModelHost:
    """Load a model, bring it to ``device`` and find out about its layers.

    Raises:
        ModelLoadError: its file or its configuration is wrong, or it cannot be served; the message says what to do.
    """
    loaded = find_source(config.architecture).load(config, downloads)
    place = torch.device(device)
    module = in_eval_mode(loaded.module).to(place, dtype=getattr(torch, config.dtype))
    spec = _preprocess(config, loaded.preprocess)
    probe = _probe_images(spec, place, getattr(torch, config.dtype))
    heads, head = _heads(config, module, probe)
    networks: dict[str | None, Network] = {name: EagerNetwork(module, name) for name in heads or [None]}
    classes = _check_rows(networks[head], module, probe)
    layers = _layers(networks[head], probe)
    default = default_layer(config.architecture, layers)
    info = ModelInfo(
        name=config.name,
        version=config.version or loaded.version,
        architecture=config.architecture,
        labels=_labels(config, loaded, classes),
        preprocess=spec,
        layers=layers,
        default_layer=default,
        dtype=config.dtype,
        device=str(place),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        recommended=recommended(layers, default),
        multi_label=config.multi_label,
        heads=heads,
        default_head=head,
    )
    info = _with_chosen_layer(info, config.layer)
    fitness = try_methods(networks[head], layers, info.layer("default"), probe)
    info = replace(info, refused_methods=fitness.refused_methods, warnings=(*loaded.warnings, *fitness.warnings))
    for warning in info.warnings:
        log.warning("model %s: %s", config.name, warning.text)
    return ModelHost(networks, info, place)


def _heads(config: ModelConfig, module: nn.Module, images: Tensor) -> tuple[dict[str, int], str | None]:
    """Find the model's heads and the one that answers by default; none of either for a single tensor."""
    with torch.inference_mode():
        output = _run(module, images)
    heads = find_heads(output, len(images))
    if not heads or config.head in heads:
        return heads, config.head if heads else None
    if config.head is not None:
        raise ModelLoadError(f"Model {config.name!r} has no head {config.head!r}; it has {', '.join(heads)}.")
    return heads, next(iter(heads))


def _run(module: nn.Module, images: Tensor) -> object:
    try:
        return module(images.clone())  # which it may change
    except Exception as error:  # a model may raise anything: ViT asserts its input size, for one
        height, width = images.shape[2:]
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelLoadError(f"The model cannot compute a picture of {height}×{width} pixels: {reason}") from error


def _layers(network: Network, images: Tensor) -> tuple[Layer, ...]:
    """Return the catalogue.

    Raises:
        ModelLoadError: the network cannot even be run while a graph is recorded.
    """
    try:
        return tuple(probe_layers(network, images))
    except RuntimeError as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise ModelLoadError(f"The model predicts, but cannot be run with gradients: {cause}.") from error


def _with_chosen_layer(info: ModelInfo, layer: str | None) -> ModelInfo:
    if layer is None:
        return info
    chosen = info.layer(layer).name
    return replace(info, default_layer=chosen, recommended=recommended(info.layers, chosen))


def _preprocess(config: ModelConfig, spec: PreprocessSpec) -> PreprocessSpec:
    """Apply the configuration's overrides. A new size alone keeps the preset's ratio of resize to crop."""
    changes: dict[str, object] = {
        key: value for key in ("mode", "interpolation", "mean", "std") if (value := getattr(config, key)) is not None
    }
    if config.size is not None:
        changes |= {"height": config.size, "width": config.size}
    if (config.mode or spec.mode) != "crop":
        changes["resize"] = None
    elif config.resize is not None:
        changes["resize"] = config.resize
    elif config.size is not None and spec.resize is not None:
        changes["resize"] = round(spec.resize * config.size / spec.height)
    try:
        return replace(spec, **changes)  # type: ignore[arg-type]  # checked by the configuration's own types
    except ValueError as error:
        raise ModelLoadError(f"Model {config.name!r} has impossible preprocessing: {error}.") from error


def _labels(config: ModelConfig, loaded: LoadedModel, classes: int) -> tuple[str, ...]:
    labels = read_labels(config.labels) if config.labels is not None else loaded.labels
    if labels is None:
        return tuple(f"class {index}" for index in range(classes))
    if len(labels) != classes:
        origin = config.labels or "its source"
        raise ModelLoadError(f"Model {config.name!r} has {classes} classes, but {origin} names {len(labels)}.")
    return labels


def _probe_images(spec: PreprocessSpec, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Two different random images, (2, 3, H, W), the same at every start."""
    noise = torch.rand(2, 3, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor(spec.mean).view(3, 1, 1), torch.tensor(spec.std).view(3, 1, 1)
    return ((noise - mean) / std).to(device, dtype)


def _check_rows(network: Network, module: nn.Module, images: Tensor) -> int:
    """Refuse a model whose answer for an image depends on the images beside it; return the number of classes.

    Raises:
        ModelLoadError: the rows are not independent, so that batches would answer wrongly; or there are no logits.
    """
    try:
        together = predict(network, images)
        alone = torch.cat([predict(network, image[None]) for image in images])
    except ModelOutputError as error:
        raise ModelLoadError(error.message) from error
    spread = float(together.max() - together.min())
    if float((together - alone).abs().max()) > _ROW_TOLERANCE[images.dtype] * max(spread, 1e-6):
        raise ModelLoadError(why_rows_differ(network, module, images))
    return together.shape[1]
