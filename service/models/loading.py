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
from service.cam.heads import find_heads, is_ranking
from service.errors import ModelLoadError, ModelOutputError, ServiceError
from service.models.defaults import default_layer, recommended
from service.models.digests import digest_of_model, digest_of_weights
from service.models.first_run import first_output
from service.models.fitness import in_eval_mode, try_methods, unwatched_parts, why_rows_differ
from service.models.host import ModelHost, Worded
from service.models.info import Head, ModelInfo
from service.models.inputs import Probe, input_spec
from service.models.outputs import read_outputs
from service.models.placements import images_to_measure, place_layers
from service.models.sources.source import OPTIONS, refuse_options
from service.models.sources.table import find_source, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.sources.source import Downloads, LoadedModel, ZeroShotClasses
    from service.settings import ModelConfig
    from service.vocabulary import ChannelLayout

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
    try:
        return _loaded(config, device, downloads, tell)
    except ServiceError:
        raise
    except SystemExit as error:
        raise ModelLoadError(
            f"The code of model {config.name!r} ends the process: it calls sys.exit(), as argparse does with arguments "
            "that are not its own. Let it build the model and nothing else."
        ) from error
    except Exception as error:  # the code of a model may raise anything
        log.exception("model %s: what was not expected", config.name)
        first = (str(error).splitlines() or [""])[0].removesuffix(".")
        raise ModelLoadError(
            f"Loading failed unexpectedly, with {type(error).__name__}: {first}. The log has more."
        ) from error


def _loaded(config: ModelConfig, device: str, downloads: Downloads, tell: Callable[[float], None]) -> ModelHost:
    source = find_source(config.architecture, config.weights, config.source)
    refuse_options(config, *sorted(OPTIONS - source.options))
    loaded = source.load(config, downloads)
    place = torch.device(device)
    module = in_eval_mode(loaded.module).to(place, dtype=getattr(torch, config.dtype))
    spec, assumed = input_spec(config, loaded.preprocess)
    tell(0.3)
    output, probe = first_output(module, Probe(spec, place, getattr(torch, config.dtype)))
    heads, head = _heads(config, output, len(probe.noise))
    bare: dict[str | None, Network] = {name: EagerNetwork(module, name, loaded.hidden) for name in heads or [None]}
    _check_rows(bare[head], module, probe.noise)
    outputs = read_outputs(_with_activation(config, loaded), bare, head, loaded.labels, probe)
    networks = outputs.networks
    catalogues = {name: _layers(network, probe.noise, loaded.layout) for name, network in networks.items()}
    noise = probe.random(images_to_measure(networks[head], probe.noise))
    weights = digest_of_weights(module)
    placed = place_layers(networks[head], weights, noise, catalogues, downloads.cache_dir)
    tell(0.6)
    arithmetic = {name: arithmetic_of(networks[name], probe.noise[:1], layers) for name, layers in placed.items()}
    placed = {
        name: tuple(replace(layer, tail=arithmetic[name].tails[layer.name]) for layer in layers)
        for name, layers in placed.items()
    }
    info = ModelInfo(
        name=config.name,
        version=config.version or loaded.version,
        source=name_of(source),
        digest=digest_of_model(config, loaded.digest or weights, [head.labels for head in outputs.heads.values()]),
        architecture=config.architecture,
        labels=outputs.heads[head].labels,
        preprocess=spec,
        layers=placed[head],
        default_layer=_default_layer(config, loaded, placed[head], module),
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
    if loaded.zero_shot is not None:
        loaded.zero_shot.to(place)
        passes = loaded.zero_shot.flops() / max(1, info.flops)
        info = replace(info, prompts=loaded.zero_shot.prompts, sentence_passes=passes)
    info = _tried(info, config.layer, networks[head], probe.noise)
    wanted = config.layer, loaded.default_layer
    heads_tried = {
        name: info.heads[name]
        if name == head
        else _head_tried(info, name, networks[name], placed[name], probe.noise, wanted)
        for name in info.heads
    }
    info = replace(info, heads=heads_tried)
    tell(0.9)
    for warning in info.warnings:
        log.warning("model %s: %s", config.name, warning.text)
    worded = _worded(loaded.zero_shot, networks[head]) if loaded.zero_shot else None
    return ModelHost(networks, info, place, channels_last=probe.channels_last, worded=worded)


def _worded(classes: ZeroShotClasses, own: Network) -> Worded:
    assert isinstance(own, EagerNetwork)
    return lambda sentences, checkpoint: own.like(classes.module(sentences, checkpoint))


def _heads(config: ModelConfig, output: object, rows: int) -> tuple[dict[str, int], str | None]:
    """Find the model's heads and the one that answers by default; none of either for a single tensor."""
    if is_ranking(output, rows):
        raise ModelLoadError(
            "The model returns the best values and their numbers, as topk() and max() do, so a place in its output is "
            "no class. Let it return the logits of all classes."
        )
    heads = find_heads(output, rows)
    if not heads or config.head in heads:
        return heads, config.head if heads else None
    if config.head is not None:
        raise ModelLoadError(f"Model {config.name!r} has no head {config.head!r}; it has {', '.join(heads)}.")
    return heads, next(iter(heads))


def _with_activation(config: ModelConfig, loaded: LoadedModel) -> ModelConfig:
    """Take the activation that the artefact names, where the configuration does not say anything of it."""
    if loaded.activation is None or config.activation != "auto" or config.multi_label:
        return config
    return config.model_copy(update={"activation": loaded.activation})


def _layers(network: Network, images: Tensor, channels: ChannelLayout | None) -> tuple[Layer, ...]:
    """Return the catalogue.

    Raises:
        ModelLoadError: the network cannot even be run while a graph is recorded.
    """
    try:
        return tuple(probe_layers(network, images, channels))
    except RuntimeError as error:
        cause = cause_of(error)
        if cause is None:
            raise
        raise ModelLoadError(f"The model predicts, but cannot be run with gradients: {cause}.") from error


def _default_layer(config: ModelConfig, loaded: LoadedModel, layers: Sequence[Layer], module: nn.Module) -> str:
    """Choose the default layer; where there is none, that some parts cannot be watched may be why."""
    try:
        return default_layer(config.architecture, layers, loaded.default_layer)
    except ModelLoadError as error:
        if scripted := unwatched_parts(module):
            raise ModelLoadError(
                f"{error.message} Its part {scripted[0]!r} is TorchScript, whose layers cannot be watched: build that "
                "from its code."
            ) from error
        raise


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
    info: ModelInfo,
    name: str,
    network: Network,
    layers: tuple[Layer, ...],
    images: Tensor,
    wanted: tuple[str | None, str | None],
) -> Head:
    """Describe another head than the default one: other layers may lead to it, and other methods may fail.

    ``wanted`` are the default layers of the configuration and of the source; either may be None.
    """
    head = replace(info.heads[name], layers=layers)
    configured, preferred = wanted
    try:
        by_default = default_layer(info.architecture, layers, preferred)
        view = replace(info.head_view(name), layers=layers, default_layer=by_default)
        chosen = configured if any(layer.name == configured and layer.explainable for layer in layers) else None
        view = _tried(view, chosen, network, images)
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
        raise ModelLoadError(f"{error.message}{_spoiled(module)}") from error
    if not same_logits(alone, together, images.dtype, _SMALLEST_LOGIT):
        raise ModelLoadError(why_rows_differ(network, module, images))


def _spoiled(module: nn.Module) -> str:
    """Say which weights are not finite; nothing where all are."""
    weights = [*module.named_parameters(), *module.named_buffers()]
    spoiled = [name for name, weight in weights if not torch.isfinite(weight).all()]
    if not spoiled:
        return ""
    return f" So are its weights: {', '.join(spoiled[:3])}. Did the training diverge? Take an earlier checkpoint."
