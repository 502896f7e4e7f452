"""From a configuration to a loaded model: the network of its source on a device, checked, and what is known of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

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
from service.models.inputs import Probe, input_spec, takes_channels
from service.models.outputs import read_outputs
from service.models.placements import images_to_measure, place_layers
from service.models.sources.table import find_source

if TYPE_CHECKING:
    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.sources.source import Downloads
    from service.settings import ModelConfig

__all__ = ["load_model"]

log = logging.getLogger("camserve.models")

# How much an image's logits may move, relative to the largest, when another image is computed beside it: rounding.
_ROW_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}

_SMALLEST_LOGIT = 1e-3  # below, rounding of what was summed up to a logit is larger than the tolerance


def load_model(config: ModelConfig, device: str, downloads: Downloads) -> ModelHost:
    """Load a model, bring it to ``device`` and find out about its layers.

    Raises:
        ModelLoadError: its file or its configuration is wrong, or it cannot be served; the message says what to do.
    """
    loaded = find_source(config.architecture, config.weights).load(config, downloads)
    place = torch.device(device)
    module = in_eval_mode(loaded.module).to(place, dtype=getattr(torch, config.dtype))
    spec, assumed = input_spec(config, loaded.preprocess)
    probe = Probe(spec, place, getattr(torch, config.dtype))
    heads, head = _heads(config, module, probe.noise)
    bare: dict[str | None, Network] = {name: EagerNetwork(module, name) for name in heads or [None]}
    _check_rows(bare[head], module, probe.noise)
    outputs = read_outputs(config, bare, head, loaded.labels, probe)
    networks = outputs.networks
    parameters = sum(parameter.numel() for parameter in module.parameters())
    noise = probe.random(images_to_measure(networks[head], probe.noise))
    found = _layers(networks[head], probe.noise)
    layers = place_layers(networks[head], module, noise, found, downloads.cache_dir)
    default = default_layer(config.architecture, layers)
    info = ModelInfo(
        name=config.name,
        version=config.version or loaded.version,
        architecture=config.architecture,
        labels=outputs.heads[head].labels,
        preprocess=spec,
        layers=layers,
        default_layer=default,
        dtype=config.dtype,
        device=str(place),
        parameters=parameters,
        recommended=recommended(layers, default),
        activation=outputs.heads[head].activation,
        multi_label=config.multi_label,
        heads={name: row for name, row in outputs.heads.items() if name is not None},
        default_head=head,
    )
    info = _with_chosen_layer(info, config.layer)
    fitness = try_methods(networks[head], layers, info.layer("default"), probe.noise)
    warnings = (*loaded.warnings, *assumed, *outputs.warnings, *fitness.warnings)
    info = replace(info, refused_methods=fitness.refused_methods, warnings=warnings)
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
        hint = _channels_hint(module, images.shape[1])
        raise ModelLoadError(
            f"The model cannot compute a picture of {height}×{width} pixels: {reason}{hint}"
        ) from error


def _channels_hint(module: nn.Module, channels: int) -> str:
    """Say so where the first convolution takes another number of channels than it gets."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if first is None or first.in_channels == channels:
        return ""
    if first.in_channels in {1, 3}:
        return f". Its first convolution takes {first.in_channels} channels: set channels={first.in_channels}."
    return f". It {takes_channels(first.in_channels)}"


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


def _check_rows(network: Network, module: nn.Module, images: Tensor) -> None:
    """Refuse a model whose answer for an image depends on the images beside it.

    Raises:
        ModelLoadError: the rows are not independent, so that batches would answer wrongly; or there are no logits.
    """
    try:
        together = predict(network, images)
        alone = torch.cat([predict(network, image[None]) for image in images])
    except ModelOutputError as error:
        raise ModelLoadError(error.message) from error
    # Not relative to their range: that of a single logit is nothing.
    size = max(float(together.abs().max()), _SMALLEST_LOGIT)
    if float((together - alone).abs().max()) > _ROW_TOLERANCE[images.dtype] * size:
        raise ModelLoadError(why_rows_differ(network, module, images))
