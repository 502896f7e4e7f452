"""From a configuration to a loaded model: the network of its source on a device, checked, and what is known of it."""

from __future__ import annotations

import logging
import random
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from service.cam.arithmetic import arithmetic_of
from service.cam.catalogue import probe_layers
from service.cam.derivatives import cause_of
from service.cam.eager import EagerNetwork
from service.cam.folding import FoldedNetwork, NotFolded, folded
from service.cam.heads import find_heads, is_ranking
from service.errors import ModelLoadError, ModelOutputError, ServiceError, kind_and_line
from service.models.defaults import default_layer, recommended
from service.models.digests import digest_of_model, digest_of_weights
from service.models.first_run import first_output
from service.models.fitness import in_eval_mode, try_methods, unwatched_parts
from service.models.host import ModelHost, Worded
from service.models.info import Computing, Head, ModelInfo
from service.models.inputs import Probe, input_spec
from service.models.outputs import read_outputs
from service.models.placements import images_to_measure, place_layers
from service.models.precision import bring, settle
from service.models.quantisation import naming_quantisation, quantised_layers
from service.models.repeatability import check_repeatable, check_rows
from service.models.sources.source import OPTIONS, refuse_options
from service.models.sources.table import find_source, name_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    from service.cam.layers import Layer
    from service.cam.network import Network
    from service.models.info import ModelWarning
    from service.models.sources.source import Downloads, LoadedModel, ZeroShotClasses
    from service.settings import ModelConfig
    from service.vocabulary import ChannelLayout, LoadCheck, LoadingStage, Precision

    Tell = Callable[[float, LoadingStage], None]  # how much is done, 0 to 1, and what is done now

__all__ = ["LoadObserver", "load_model"]

log = logging.getLogger("camserve.models")


class LoadObserver:
    """Hears what is found out about a model, and when; this one does nothing with it."""

    def begins(self, check: LoadCheck) -> None:
        """Hear what is looked at from now on."""

    def read(self, loaded: LoadedModel) -> None:
        """Hear what the source gave, before the configuration's overrides."""


_NOBODY = LoadObserver()


def load_model(
    config: ModelConfig,
    device: str,
    downloads: Downloads,
    tell: Tell = lambda _fraction, _stage: None,
    observer: LoadObserver = _NOBODY,
) -> ModelHost:
    """Load a model, bring it to ``device`` and find out about its layers.

    Args:
        config: of the model.
        device: such as ``cuda:0``.
        downloads: where weights may be fetched from.
        tell: hears how far it is.
        observer: hears what is being looked at.

    Raises:
        ModelLoadError: its file or its configuration is wrong, or it cannot be served; the message says what to do.
    """
    try:
        host = _loaded(config, device, downloads, tell, observer)
        host.note_straying()  # from what it did with the one picture, with those that it was tried with since
        return host
    except ServiceError:
        raise
    except SystemExit as error:
        raise ModelLoadError(
            f"The code of model {config.name!r} ends the process: it calls sys.exit(), as argparse does with arguments "
            "that are not its own. Let it build the model and nothing else."
        ) from error
    except Exception as error:  # the code of a model may raise anything
        log.exception("model %s: what was not expected", config.name)
        raise ModelLoadError(f"Loading failed unexpectedly, with {kind_and_line(error)}. The log has more.") from error


def _loaded(config: ModelConfig, device: str, downloads: Downloads, tell: Tell, observer: LoadObserver) -> ModelHost:
    observer.begins("model")
    source = find_source(config.architecture, config.weights, config.source)
    refuse_options(config, *sorted(OPTIONS - source.options))
    tell(0.05, "reading weights")
    with _seeded():
        loaded = source.load(config, downloads)
    observer.read(loaded)
    loaded = replace(loaded, module=in_eval_mode(loaded.module))
    place = torch.device(device)

    def build(precision: Precision) -> ModelHost:
        chosen = config.model_copy(update={"precision": precision})
        host = _built(chosen, loaded, place, downloads.cache_dir, (tell, observer))
        host.info = replace(host.info, source=name_of(source))
        return host

    return settle(config.precision, loaded.precision, loaded.module, place, build)


def _built(
    config: ModelConfig,
    loaded: LoadedModel,
    place: torch.device,
    cache_dir: Path,
    heard: tuple[Tell, LoadObserver],
) -> ModelHost:
    """Bring what a source gave to its device, in the precision that ``config`` has, and find out about it."""
    tell, observer = heard
    precision = config.precision
    assert precision != "auto", "it is settled before"
    dtype = getattr(torch, precision)
    module = bring(loaded.module, place, dtype)
    observer.begins("preprocessing")
    spec, assumed = input_spec(config, loaded.preprocess)
    tell(0.3, "checking")
    output, probe = first_output(module, Probe(spec, place, dtype))
    observer.begins("labels")
    heads, head = _heads(config, output, len(probe.noise))
    bare, computing = _networks(loaded, module, heads, probe.noise)
    drawn = _check_answers(bare[head], module, probe.noise, observer)
    observer.begins("labels")
    outputs = read_outputs(_with_activation(config, loaded, heads), bare, head, loaded.labels, probe)
    networks = outputs.networks
    observer.begins("layers")
    with naming_quantisation(module):
        catalogues = {name: _layers(network, probe.noise, loaded.layout) for name, network in networks.items()}
    noise = probe.random(images_to_measure(networks[head], probe.noise))
    weights = digest_of_weights(module)
    tell(0.5, "measuring layers")
    placed = place_layers(networks[head], weights, noise, catalogues, cache_dir)
    arithmetic = {name: arithmetic_of(networks[name], probe.noise[:1], layers) for name, layers in placed.items()}
    placed = {
        name: tuple(replace(layer, tail=arithmetic[name].tails[layer.name]) for layer in layers)
        for name, layers in placed.items()
    }
    content = loaded.digest or weights
    info = ModelInfo(
        name=config.name,
        version=config.version or loaded.version,
        digest=digest_of_model(config, content, [head.labels for head in outputs.heads.values()]),
        architecture=config.architecture,
        labels=outputs.heads[head].labels,
        preprocess=spec,
        layers=placed[head],
        default_layer=_default_layer(config, loaded, placed[head], module),
        dtype=precision,
        device=str(place),
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        memory=_bytes_of(module) + sum(each.more_bytes for each in bare.values() if isinstance(each, FoldedNetwork)),
        content=content,
        activation=outputs.heads[head].activation,
        multi_label=config.multi_label,
        heads={name: row for name, row in outputs.heads.items() if name is not None},
        default_head=head,
        warnings=(*loaded.warnings, *assumed, *drawn, *outputs.warnings),
        flops=arithmetic[head].flops,
        pass_s=arithmetic[head].seconds,
        computing=computing,
    )
    observer.begins("gradient")
    tell(0.7, "warming")
    info = _tried(info, config.layer, networks[head], probe.noise, quantised_layers(module))
    wanted = config.layer, loaded.default_layer
    heads_tried = {
        name: info.heads[name]
        if name == head
        else _head_tried(info, name, networks[name], placed[name], probe.noise, wanted)
        for name in info.heads
    }
    info = replace(info, heads=heads_tried)
    for warning in info.warnings:
        log.warning("model %s: %s", config.name, warning.text)
    if loaded.zero_shot is None:
        return ModelHost(networks, info, place, channels_last=probe.channels_last)
    info, worded = _worded(info, loaded.zero_shot, networks[head])
    return ModelHost(networks, info, place, channels_last=probe.channels_last, worded=worded)


def _networks(
    loaded: LoadedModel, module: nn.Module, heads: Collection[str], images: Tensor
) -> tuple[dict[str | None, Network], Computing]:
    """See a module through each of its heads; fold one of a single output where that can be, or say why not."""
    names: Collection[str | None] = heads or [None]
    if loaded.zero_shot is not None:
        why = "Its classes are sentences, which come with requests."
    elif heads:
        why = "It has several outputs." if len(heads) > 1 else "Its output is no plain tensor."
    else:
        try:
            return {None: folded(module, images, loaded.hidden)}, Computing(folded=True)
        except NotFolded as told:
            why = str(told)
    return {name: EagerNetwork(module, name, loaded.hidden) for name in names}, Computing(unfolded=why)


def _worded(info: ModelInfo, classes: ZeroShotClasses, own: Network) -> tuple[ModelInfo, Worded]:
    """Return what is known of a model whose classes are sentences, and what makes one with others."""
    assert isinstance(own, EagerNetwork)
    classes.to(torch.device(info.device))
    passes = classes.flops() / max(1, info.flops)
    return (
        replace(info, prompts=classes.prompts, sentence_passes=passes),
        lambda sentences, checkpoint: own.like(classes.module(sentences, checkpoint)),
    )


@contextmanager
def _seeded() -> Iterator[None]:
    """Have weights that are drawn at random be the same with every worker, and whenever they are loaded."""
    generator, others = random.getstate(), np.random.get_state()  # what models' code may draw from
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # likewise
        try:
            yield
        finally:
            random.setstate(generator)
            np.random.set_state(others)  # likewise


def _bytes_of(module: nn.Module) -> int:
    """Return what parameters and buffers take, those that are the same memory once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in chain(module.parameters(), module.buffers())
    }
    return sum(storages.values())


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


def _with_activation(config: ModelConfig, loaded: LoadedModel, heads: Collection[str]) -> ModelConfig:
    """Take the activation that the artefact names, for the heads of which the configuration does not say anything."""
    if loaded.activation is None or config.multi_label:
        return config
    if isinstance(config.activation, dict):
        return config.model_copy(
            update={"activation": {**dict.fromkeys(heads, loaded.activation), **config.activation}}
        )
    return config.model_copy(update={"activation": loaded.activation}) if config.activation == "auto" else config


def _layers(network: Network, images: Tensor, channels: ChannelLayout | None) -> tuple[Layer, ...]:
    """Return the catalogue.

    Raises:
        ModelLoadError: the network cannot even be run while a graph is recorded.
    """
    try:
        return tuple(probe_layers(network, images, channels))
    except (ServiceError, torch.OutOfMemoryError, torch.AcceleratorError):
        raise
    except Exception as error:
        cause = cause_of(error) or _raised_with_gradients_alone(network, images, error)
        if cause is None:
            raise
        raise ModelLoadError(f"The model predicts, but cannot be run with gradients: {cause}.") from error


def _raised_with_gradients_alone(network: Network, images: Tensor, error: Exception) -> str | None:
    """Name an error that the network raises by itself where a graph is recorded; None where it does not."""
    try:
        network.observe(images.clone().requires_grad_() * 1, (), lambda *_: None)
    except Exception as again:  # noqa: BLE001  # a network's own code may raise anything
        same = type(again) is type(error)
        return kind_and_line(again) if same else None
    return None


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


def _tried(info: ModelInfo, layer: str | None, network: Network, images: Tensor, quantised: str = "") -> ModelInfo:
    """Try what can be explained, by default at ``layer`` if it is given; ``quantised`` says which layers are so."""
    if layer is not None:
        info = replace(info, default_layer=info.layer(layer).name)
    fitness = try_methods(network, info.layers, info.layer("default"), images, quantised)
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


def _check_answers(
    network: Network, module: nn.Module, images: Tensor, observer: LoadObserver
) -> tuple[ModelWarning, ...]:
    """Refuse a model whose answer for an image hangs on anything else than that image; return what is to be warned of.

    Raises:
        ModelLoadError: it does, so that it would answer wrongly; or there are no logits.
    """
    observer.begins("determinism")
    try:
        with naming_quantisation(module):
            warnings = check_repeatable(network, module, images)
            observer.begins("batch")
            check_rows(network, module, images)
    except ModelOutputError as error:
        raise ModelLoadError(f"{error.message}{_spoiled(module)}") from error
    return warnings


def _spoiled(module: nn.Module) -> str:
    """Say which weights are not finite; nothing where all are."""
    weights = [*module.named_parameters(), *module.named_buffers()]
    spoiled = [name for name, weight in weights if not torch.isfinite(weight).all()]
    if not spoiled:
        return ""
    return f" So are its weights: {', '.join(spoiled[:3])}. Did the training diverge? Take an earlier checkpoint."
