"""Image classifiers as transformers saves them: a folder, or a name on the hub. No code of theirs is run."""

from __future__ import annotations

import contextlib
import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from service.errors import ModelLoadError, first_line
from service.models.digests import digest_of_files
from service.models.file_kinds import HUGGING_FACE, TIMM, kind_of
from service.models.info import ModelWarning
from service.models.sources import timm_models
from service.models.sources.hub import published_folder
from service.models.sources.image_processors import read_processor
from service.models.sources.libraries import library
from service.models.sources.source import Downloads, LoadedModel, refuse_options, refuse_weights
from service.models.state_dicts import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL.Image import Image
    from torch import Tensor

    from service.settings import ModelConfig
    from service.vocabulary import Activation

__all__ = ["has", "load", "reads"]

_PREFIX = "hf/"
_WEIGHTS = ("*.safetensors", "*.bin")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")

# What transformers calls the first norm of a block: of ViT and its kin, DINOv2, CLIP and SigLIP.
_FIRST_NORM = re.compile(r".*\.(layernorm_before|norm1|layer_norm1)")


def has(architecture: str) -> bool:
    """Return whether it is named as one of the hub's."""
    return architecture.startswith(_PREFIX)


def reads(artefact: Path) -> bool:
    """Return whether it is a folder that transformers has saved."""
    return artefact.is_dir() and kind_of(artefact) is HUGGING_FACE


def load(config: ModelConfig, downloads: Downloads) -> LoadedModel:
    """Load a folder, or ``hf/NAME`` from the hub or its cache.

    Raises:
        ModelLoadError: transformers is not installed, or it is no image classifier; the message says what it is.
    """
    version = None
    folder = Path(config.architecture)
    if has(config.architecture):
        name = config.architecture.removeprefix(_PREFIX)
        folder = published_folder(name, downloads, "Give a local folder instead: --model ./FOLDER.")
        version = folder.name[:12]
        if kind_of(folder) is TIMM:
            return timm_models.load_folder(folder, config, version)
    refuse_options(config, "use_ema", "factory_args")
    refuse_weights(config)
    described = _json_of(folder / "config.json")
    module = _from_pretrained(folder, described)
    processor = _processor(folder)
    spec, warnings = read_processor(processor, described, folder.name)
    files = sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern))
    return LoadedModel(
        module,
        spec,
        _labels(module),
        version or digest(files[0]),
        (*warnings, *_doubts(described, folder.name)),
        default_layer=_default_layer(module, described),
        activation=_activation(described),
        digest=digest_of_files(folder / "config.json", *_there(folder, _PROCESSORS), *files),
        transform=None if processor is None else partial(_transform, folder),
    )


def _transform(folder: Path) -> Callable[[Image], Tensor]:
    """Return what transformers' own processor of images makes of one, (channels, H, W)."""
    transformers = library("transformers", "hf")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return lambda image: cast("Tensor", processor(images=image, return_tensors="pt")["pixel_values"][0])


def _json_of(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{file} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file} holds no JSON object.")
    return content


def _there(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _processor(folder: Path) -> dict[str, Any] | None:
    """Return how pictures are prepared, as it is saved; None where nothing is."""
    for file in _there(folder, _PROCESSORS):
        content = _json_of(file)
        inner = content.get("image_processor", content)
        if isinstance(inner, dict):
            return inner
    return None


# -- the network ------------------------------------------------------------------------------------------------------


def _from_pretrained(folder: Path, described: dict[str, Any]) -> nn.Module:
    """Build the network and fill it.

    Raises:
        ModelLoadError: it is no image classifier, has no head, or the weights do not fit.
    """
    transformers = library("transformers", "hf")
    name, kind = folder.name, described.get("model_type")
    if not list(folder.glob("*.safetensors")) and not list(folder.glob("*.bin")):
        raise ModelLoadError(f"{name} has no weights: a file such as model.safetensors is missing.")
    if kind not in transformers.CONFIG_MAPPING:
        if "auto_map" in described:
            raise ModelLoadError(
                f"{name} brings code of its own, which is not run. Write a function that builds it: "
                "mypackage.nets.build."
            )
        raise ModelLoadError(f"transformers {transformers.__version__} knows no model {kind!r}, which {name} is.")
    if kind not in transformers.models.auto.modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        raise ModelLoadError(f"{name} is a model of type {kind!r}, which classifies no pictures.")
    with _quiet(transformers):
        try:
            module, found = transformers.AutoModelForImageClassification.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except Exception as error:  # whatever a description or weights provoke
            raise ModelLoadError(f"transformers cannot load {name}: {first_line(error)}") from error
    _check_whole(name, found)
    return cast("nn.Module", module)


def _check_whole(name: str, found: dict[str, Any]) -> None:
    """Refuse a network of which a part was left at random values, as a head that the folder does not have."""
    mismatched = [str(each[0] if isinstance(each, tuple) else each) for each in found.get("mismatched_keys", ())]
    missing = sorted([*found.get("missing_keys", ()), *mismatched])
    if not missing:
        return
    heads = [key for key in missing if re.search(r"classifier|head", key)]
    if len(heads) == len(missing):
        shown = next((key for key in heads if key.endswith("weight")), heads[0])
        raise ModelLoadError(
            f"{name} has no classifier (missing {shown}). Fine-tune it, or name a folder that has one."
        )
    shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    raise ModelLoadError(f"{name} lacks weights of its network: {shown}. Save it again with save_pretrained.")


@contextlib.contextmanager
def _quiet(transformers: Any) -> Any:
    """Keep progress bars and advice for trainers out of the log."""
    said = transformers.utils.logging
    level = said.get_verbosity()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)


# -- what is known of it ----------------------------------------------------------------------------------------------


def _labels(module: nn.Module) -> tuple[str, ...] | None:
    """Return the labels; None where they are transformers' own placeholders."""
    names = cast("Any", module).config.id2label
    labels = tuple(str(names[index]) for index in sorted(names))
    return None if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels


def _activation(described: dict[str, Any]) -> Activation | None:
    return "sigmoid" if described.get("problem_type") == "multi_label_classification" else None


def _doubts(described: dict[str, Any], name: str) -> list[ModelWarning]:
    if described.get("problem_type") != "regression":
        return []
    text = (
        f"{name} was trained for regression: its outputs are no logits. Set activation=none to have them as they are."
    )
    return [ModelWarning("regression", text)]


def _default_layer(module: nn.Module, described: dict[str, Any]) -> str | None:
    """Name the first norm of a transformer's last block; None where blocks come in stages, as in Swin."""
    if "depths" in described:
        return None
    norms = [name for name, _ in module.named_modules() if _FIRST_NORM.fullmatch(name)]
    return norms[-1] if norms else None
