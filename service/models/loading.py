"""From a configuration to a loaded model: the network of its source on a device, checked, and what is known of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.cam.arithmetic import arithmetic_of
from service.cam.capture import same_logits
from service.cam.catalogue import probe_layers
from service.cam.derivatives import cause_of
from service.cam.eager import EagerNetwork
from service.cam.explain import predict
from service.cam.heads import find_heads
from service.errors import ModelLoadError, ModelOutputError
from service.models.defaults import default_layer, recommended
from service.models.fitness import in_eval_mode, try_methods, why_rows_differ
from service.models.host import ModelHost
from service.models.info import Head, ModelInfo
from service.models.inputs import Probe, input_spec, takes_channels
from service.models.outputs import read_outputs
from service.models.placements import images_to_measure, place_layers
from service.models.sources.table import find_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.sources.source import Downloads
    from service.settings import ModelConfig

__all__ = ["load_model"]

log = logging.getLogger("camserve.models")

_SMALLEST_LOGIT = 1e-3  # below, rounding of what was summed up to a logit is larger than the tolerance


def load_model(
    config: ModelConfig, device: str, downloads: Downloads, tell: Callable[[float], None] = lambda _fraction: None
) -> ModelHost:
    """Load a model, bring it to ``device`` and find out about its layers; ``tell`` hears how much is done, 0 to 1.

    Raises:
        ModelLoadError: its file or its configuration is wrong, or it cannot be served; the message says what to do.
    """
    loaded = find_source(config.architecture, config.weights).load(config, downloads)
    place = torch.device(device)
    module = in_eval_mode(loaded.module).to(place, dtype=getattr(torch, config.dtype))
    spec, assumed = input_spec(config, loaded.preprocess)
    probe = Probe(spec, place, getattr(torch, config.dtype))
    tell(0.3)
    heads, head = _heads(config, module, probe.noise)
    bare: dict[str | None, Network] = {name: EagerNetwork(module, name) for name in heads or [None]}
    _check_rows(bare[head], module, probe.noise)
    outputs = read_outputs(config, bare, head, loaded.labels, probe)
    networks = outputs.networks
    noise = probe.random(images_to_measure(networks[head], probe.noise))
    catalogues = {name: _layers(network, probe.noise) for name, network in networks.items()}
    placed = place_layers(networks[head], module, noise, catalogues, downloads.cache_dir)
    tell(0.6)
    arithmetic = {name: arithmetic_of(networks[name], probe.noise[:1], layers) for name, layers in placed.items()}
    placed = {
        name: tuple(replace(layer, tail=arithmetic[name].tails[layer.name]) for layer in layers)
        for name, layers in placed.items()
    }
    info = ModelInfo(
        name=config.name,
        version=config.version or loaded.version,
        architecture=config.architecture,
        labels=outputs.heads[head].labels,
        preprocess=spec,
        layers=placed[head],
        default_layer=default_layer(config.architecture, placed[head]),
        dtype=config.dtype,
        device=str(place),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        activation=outputs.heads[head].activation,
        multi_label=config.multi_label,
        heads={name: row for name, row in outputs.heads.items() if name is not None},
        default_head=head,
        warnings=(*loaded.warnings, *assumed, *outputs.warnings),
        flops=arithmetic[head].flops,
        pass_s=arithmetic[head].seconds,
    )
    info = _tried(info, config.layer, networks[head], probe.noise)
    heads_tried = {
        name: info.heads[name] if name == head else _head_tried(info, name, config, networks[name], placed[name], probe)
        for name in info.heads
    }
    info = replace(info, heads=heads_tried)
    tell(0.9)
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


def _tried(info: ModelInfo, layer: str | None, network: Network, images: Tensor) -> ModelInfo:
    """Try what can be explained, by default at ``layer`` if it is given."""
    if layer is not None:
        info = replace(info, default_layer=info.layer(layer).name)
    fitness = try_methods(network, info.layers, info.layer("default"), images)
    return replace(
        info,
        recommended=recommended(info.layers, info.default_layer),
        refused_methods=fitness.refused_methods,
        warnings=(*info.warnings, *fitness.warnings),
    )


def _head_tried(
    info: ModelInfo, name: str, config: ModelConfig, network: Network, layers: tuple[Layer, ...], probe: Probe
) -> Head:
    """Describe another head than the default one: other layers may lead to it, and other methods may fail."""
    head = replace(info.heads[name], layers=layers)
    try:
        view = replace(info.head_view(name), layers=layers, default_layer=default_layer(config.architecture, layers))
        chosen = config.layer if any(layer.name == config.layer and layer.explainable for layer in layers) else None
        view = _tried(view, chosen, network, probe.noise)
    except ModelLoadError:  # no layer leads to it: requests are told so
        return head
    return replace(
        head, default_layer=view.default_layer, recommended=view.recommended, refused_methods=view.refused_methods
    )


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
    if not same_logits(alone, together, images.dtype, _SMALLEST_LOGIT):
        raise ModelLoadError(why_rows_differ(network, module, images))
