"""Networks of timm: by name with a file of weights, from a folder that timm has saved, or with its published weights.

timm builds the network and says how pictures are prepared; weights are read here, as data.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from service.errors import ModelLoadError, closest
from service.models.file_kinds import TIMM, kind_of
from service.models.info import ModelWarning
from service.models.sources.hub import published_folder
from service.models.sources.libraries import library
from service.models.sources.source import Downloads, LoadedModel, refuse_options
from service.models.sources.timm_inputs import find_preprocessing, find_transform
from service.models.state_dicts import StateDict, digest, load_into, read_weights

if TYPE_CHECKING:
    from service.settings import ModelConfig

__all__ = ["has", "load", "load_folder", "reads"]

_PREFIX = "timm/"
_DEFAULT_CLASSES = 1000
_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_SUFFIXES = (".safetensors", ".pth", ".pth.tar", ".bin", ".pt", ".ckpt")


def has(architecture: str) -> bool:
    """Return whether it is named as one of timm's."""
    return architecture.startswith(_PREFIX)


def reads(artefact: Path) -> bool:
    """Return whether it is a folder that timm has saved."""
    return artefact.is_dir() and kind_of(artefact) is TIMM


def load(config: ModelConfig, downloads: Downloads) -> LoadedModel:
    """Load ``timm/NAME``, with the weights of a file, ``random`` ones or timm's own, or a folder.

    ``factory_args`` go to ``timm.create_model``.

    Raises:
        ModelLoadError: timm is not installed, has no such network, or the weights cannot be had or do not fit.
    """
    if not has(config.architecture):
        return load_folder(Path(config.architecture), config)
    name = config.architecture.removeprefix(_PREFIX)
    _check_name(name)
    if config.weights == "random":
        return _random(name, config)
    if config.weights is not None:
        file = Path(config.weights)
        return _described(_filled(_Recipe(name, {}, {}), file, config), file.name, config, trained_elsewhere=True)
    return _published(name, config, downloads)


def load_folder(folder: Path, config: ModelConfig, name: str | None = None) -> LoadedModel:
    """Load what timm has saved to a folder; ``config.weights`` is a file in place of its own weights.

    Args:
        folder: with a ``config.json`` that names the architecture.
        config: of the model.
        name: what its version is called; the digest of the weights where None.

    Raises:
        ModelLoadError: as ``load``.
    """
    recipe = _recipe(folder)
    _check_name(recipe.name)
    file = Path(config.weights) if config.weights is not None else _weights_in(folder)
    filled = _filled(recipe, file, config)
    loaded = _described(filled, folder.name, config, trained_elsewhere=config.weights is not None)
    described = f"{filled.version} {digest(folder / 'config.json')}"
    return replace(loaded, version=name or loaded.version, digest=described)


# -- which network ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Recipe:
    """How timm builds a network: its name, the arguments it was made with, and what it was trained with."""

    name: str
    args: dict[str, Any]
    pretrained: dict[str, Any]


def _check_name(name: str) -> None:
    timm = library("timm", "timm")
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = closest(base, timm.list_models())
        meant = f" Did you mean {' or '.join(f'timm/{other}' for other in near)}?" if near else ""
        raise ModelLoadError(f"timm {timm.__version__} has no model {base!r}.{meant}")
    tags = [pretrained.partition(".")[2] for pretrained in timm.list_pretrained(base)]
    if tag and tag not in tags:
        there = f" It has {', '.join(tags)}." if tags else ""
        raise ModelLoadError(f"timm {timm.__version__} has no weights {tag!r} of {base}.{there}")


def _recipe(folder: Path) -> _Recipe:
    """Read what timm wrote beside the weights.

    Raises:
        ModelLoadError: it is something else.
    """
    file = folder / "config.json"
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read as JSON: {error}.") from error
    kinds = {"architecture": str, "model_args": dict, "pretrained_cfg": dict}
    wrong = [key for key, kind in kinds.items() if key in content and not isinstance(content[key], kind)]
    if wrong or "architecture" not in content:
        raise ModelLoadError(f"{file} has no {(wrong or ['architecture'])[0]} as timm writes it.")
    pretrained = {key: value for key, value in content.items() if key not in {"architecture", "model_args"}}
    pretrained |= pretrained.pop("pretrained_cfg", {})  # older folders have it all in one table
    if "labels" in pretrained:
        pretrained.setdefault("label_names", pretrained.pop("labels"))
    return _Recipe(content["architecture"], content.get("model_args", {}), pretrained)


def _weights_in(folder: Path) -> Path:
    """Return a folder's file of weights, as timm chooses it.

    Raises:
        ModelLoadError: there is none.
    """
    usual = [folder / name for name in _FILES if (folder / name).is_file()]
    others = [file for suffix in _SUFFIXES for file in sorted(folder.glob(f"*{suffix}"))]
    found = [*usual, *others]
    if not found:
        raise ModelLoadError(f"{folder.name} has no weights: a file such as {_FILES[0]} is missing.")
    return found[0]


# -- the network, filled ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Filled:
    """A network with its weights; ``pretrained`` is what is known of these besides."""

    module: nn.Module
    pretrained: Mapping[str, Any]
    version: str
    warnings: tuple[ModelWarning, ...]


# Arguments of timm.create_model with which it would read or fetch what nobody here has judged.
_OF_WEIGHTS = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


def _build(recipe: _Recipe, config: ModelConfig, **args: Any) -> nn.Module:
    """Build a network with initial weights.

    Raises:
        ModelLoadError: timm does not take these arguments.
    """
    timm = library("timm", "timm")
    whole = {**recipe.args, **args, **config.factory_args}
    if elsewhere := sorted(_OF_WEIGHTS & whole.keys()):
        raise ModelLoadError(
            f"The argument {elsewhere[0]} of timm.create_model says where weights come from. Leave it out, and name "
            f"their file behind the architecture: {_PREFIX}{recipe.name}:FILE.safetensors."
        )
    try:
        module: nn.Module = timm.create_model(recipe.name, pretrained=False, **whole)
    except NotImplementedError:  # it computes with tensors that have no values on the meta device
        raise
    except Exception as error:  # whatever the arguments provoke
        given = ", ".join(f"{key}={value!r}" for key, value in whole.items())
        raise ModelLoadError(f"timm cannot build {recipe.name} with {given}: {error}.") from error
    return module


def _reference(recipe: _Recipe, config: ModelConfig) -> nn.Module:
    """Build the network without memory for its weights: for its names and shapes, with a head."""
    try:
        with torch.device("meta"):
            return _build(recipe, config, num_classes=_DEFAULT_CLASSES)
    except (NotImplementedError, ModelLoadError):
        return _build(recipe, config, num_classes=_DEFAULT_CLASSES)


def _filled(recipe: _Recipe, file: Path, config: ModelConfig) -> _Filled:
    logging.getLogger("timm").setLevel(logging.ERROR)  # what it would say of weights is not about these
    reference = _reference(recipe, config)
    shapes = reference.state_dict()
    state, version, warnings = _read(file, shapes, config)
    classes = _count_classes(reference, shapes, state, file.name)
    args: dict[str, Any] = {"num_classes": classes}
    channels = _count_channels(reference, state)
    if channels is not None:
        args["in_chans"] = channels
    side = _img_size(recipe, reference, config, state)
    if side is not None:
        args["img_size"] = side
    module = _build(recipe, config, **args)
    state, resampled = _resampled(module, state, file.name)
    load_into(module, state, file.name)
    warnings = (*warnings, *resampled)
    return _Filled(module, _known(reference, recipe, channels), version, warnings)


def _read(
    file: Path, shapes: Mapping[str, Tensor], config: ModelConfig
) -> tuple[StateDict, str, tuple[ModelWarning, ...]]:
    """Read the weights: averaged ones where there are any, as timm has it, unless the configuration says otherwise."""
    weights = read_weights(file, shapes, use_ema=config.use_ema)
    version = digest(file)
    averaged = config.use_ema is None and any(warning.code == "ema_weights" for warning in weights.warnings)
    if not averaged:
        return weights.state, f"{version}-ema" if config.use_ema else version, weights.warnings
    weights = read_weights(file, shapes, use_ema=True)
    text = (
        f"{file.name} holds averaged weights (EMA), which are taken, as timm does. If there are others beside them, "
        "use_ema=false takes those."
    )
    return weights.state, f"{version}-ema", (*weights.warnings, ModelWarning("ema_weights", text))


def _count_classes(reference: nn.Module, shapes: Mapping[str, Tensor], state: StateDict, name: str) -> int:
    """Read the number of classes off the classifier's weights.

    Raises:
        ModelLoadError: there is none.
    """
    named = cast("Any", reference).pretrained_cfg.get("classifier")  # of DeiT and LeViT with distillation: two
    heads = [f"{head}.weight" for head in ([named] if isinstance(named, str) else named or ())]
    heads += [key for key, value in reversed(list(shapes.items())) if value.ndim and value.shape[0] == _DEFAULT_CLASSES]
    heads = [key for key in heads if key in shapes]
    found = next((state[key].shape[0] for key in heads if key in state), None)
    if found is None:
        if replaced := next(
            (key for key in state for head in heads if key.startswith(head.removesuffix("weight"))), None
        ):
            architecture = cast("Any", reference).pretrained_cfg.get("architecture", "timm's network")
            raise ModelLoadError(
                f"{name} has {replaced} where {architecture} has {heads[0]}: its head was replaced. Write a function "
                f"that builds the network: mynets.build:{name}."
            )
        missing = f" (missing {heads[0]})" if heads else ""
        raise ModelLoadError(f"{name} has no classifier{missing}. Fine-tune it, or name weights that have one.")
    return found


def _count_channels(reference: nn.Module, state: StateDict) -> int | None:
    """Read the number of input channels off the first convolution's weights; None where timm names none."""
    named = cast("Any", reference).pretrained_cfg.get("first_conv")
    first = named if isinstance(named, str) else next(iter(named or ()), None)
    weight = state.get(f"{first}.weight")
    return weight.shape[1] if weight is not None and weight.ndim == 4 else None


def _img_size(
    recipe: _Recipe, reference: nn.Module, config: ModelConfig, state: StateDict | None = None
) -> tuple[int, int] | None:
    """Return the input size to build a network for that is built for one, where timm's own is not right.

    That is the configured one, or the one that the positions in ``state`` were learned for.
    """
    known = cast("Any", reference).pretrained_cfg
    if not known.get("fixed_input_size") or "img_size" in {*recipe.args, *config.factory_args}:
        return None
    height, width = config.height or config.size, config.width or config.size
    if height and width:
        return height, width
    learned, expected = ((state or {}).get("pos_embed"), reference.state_dict().get("pos_embed"))
    patch = getattr(getattr(reference, "patch_embed", None), "patch_size", None)
    if learned is None or expected is None or patch is None or learned.shape == expected.shape or learned.ndim != 3:
        return None
    special = expected.shape[1] - (known["input_size"][1] // patch[0]) * (known["input_size"][2] // patch[1])
    side = math.isqrt(max(learned.shape[1] - special, 1)) * patch[0]
    return side, side


def _resampled(module: nn.Module, state: StateDict, name: str) -> tuple[StateDict, tuple[ModelWarning, ...]]:
    """Resample what was learned per position, as timm does, where the network is built for another size."""
    expected = module.state_dict()
    differ = [key for key in state if key in expected and state[key].shape != expected[key].shape]
    resample = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if resample is None or not differ or not all(re.search(r"pos_embed|relative_position", key) for key in differ):
        return state, ()
    changed = resample(dict(state), module)
    text = (
        f"{name} was trained with pictures of another size: what it learned of positions is resampled, as timm does "
        f"({differ[0]}). Leave size, height and width out for its own."
    )
    return changed, (ModelWarning("positions_resampled", text),)


def _random(name: str, config: ModelConfig) -> LoadedModel:
    refuse_options(config, "use_ema")
    torch.manual_seed(0)
    recipe = _Recipe(name, {}, {})
    side = _img_size(recipe, _reference(recipe, config), config)
    module = _build(recipe, config, num_classes=_DEFAULT_CLASSES, **({"img_size": side} if side else {}))
    for head in (part for part in module.modules() if isinstance(part, nn.Linear)):
        if not head.weight.any():
            nn.init.normal_(head.weight, std=0.02)  # a head of zeros: no class would differ from another
    known = _known(module, recipe, _count_channels(module, module.state_dict()))
    return _described(_Filled(module, known, "random", ()), name, config, trained_elsewhere=False)


def _published(name: str, config: ModelConfig, downloads: Downloads) -> LoadedModel:
    """Load timm's own weights, which are on the hub of Hugging Face."""
    timm = library("timm", "timm")
    pretrained = timm.get_pretrained_cfg(name)
    instead = f"Give a local file instead: --model {_PREFIX}{name}:FILE.safetensors."
    if pretrained is None or not pretrained.hf_hub_id:
        raise ModelLoadError(f"timm has published no weights of {name!r}. {instead}")
    folder = published_folder(pretrained.hf_hub_id, downloads, instead)
    return load_folder(folder, config, pretrained.tag or None)


# -- what is known of it ----------------------------------------------------------------------------------------------


def _known(module: nn.Module, recipe: _Recipe, channels: int | None) -> dict[str, Any]:
    known: dict[str, Any] = {**cast("Any", module).pretrained_cfg, **recipe.pretrained}
    size = known.get("input_size") or (3, 224, 224)
    side = recipe.args.get("img_size")
    if side is not None:
        size = (size[0], *((side, side) if isinstance(side, int) else side))
    return {**known, "input_size": (channels or recipe.args.get("in_chans") or size[0], *size[1:])}


def _described(filled: _Filled, name: str, config: ModelConfig, *, trained_elsewhere: bool) -> LoadedModel:
    """Put together what is known of a network.

    Args:
        filled: the network.
        name: of the file or folder, for warnings.
        config: of the model.
        trained_elsewhere: whether the weights came without a word on how pictures were prepared.
    """
    classes = int(cast("Any", filled.module).num_classes)
    spec, differences = find_preprocessing(filled.pretrained, filled.module)
    labels = _labels(filled.pretrained, classes)
    warnings = [*filled.warnings, *differences]
    if trained_elsewhere and labels is not None and config.labels is None:
        warnings.append(
            ModelWarning(
                "labels_assumed",
                f"{name} has {classes} classes, which are taken to be ImageNet's. If they are others, name a file "
                "with their labels: labels=FILE.",
            )
        )
    return LoadedModel(
        filled.module,
        spec,
        labels,
        filled.version,
        tuple(warnings),
        default_layer=_default_layer(filled.module),
        transform=partial(find_transform, filled.pretrained, (spec.height, spec.width)),
    )


def _labels(pretrained: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    """Return the labels that came with the weights, or ImageNet's where their number is right; None for others."""
    names = pretrained.get("label_names")
    if isinstance(names, Mapping):
        names = [names.get(str(index), names.get(index)) for index in range(classes)]
    if isinstance(names, list | tuple) and len(names) == classes and all(isinstance(name, str) for name in names):
        descriptions = pretrained.get("label_descriptions") or {}
        return tuple(str(descriptions.get(name, name)) for name in names)
    timm_data = library("timm.data", "timm")
    subset = timm_data.infer_imagenet_subset({"num_classes": classes})
    if subset is None or classes < _DEFAULT_CLASSES:
        return None
    known = timm_data.ImageNetInfo(subset)
    return tuple(known.index_to_description(index) for index in range(classes))


def _default_layer(module: nn.Module) -> str | None:
    """Name the first norm of a transformer's last block: behind it, only the class token may be read."""
    blocks = [name for name, part in module.named_modules() if name.startswith("blocks.") and _is_block(part)]
    return f"{blocks[-1]}.norm1" if blocks else None


def _is_block(part: nn.Module) -> bool:
    return isinstance(getattr(part, "norm1", None), nn.Module) and isinstance(getattr(part, "attn", None), nn.Module)
