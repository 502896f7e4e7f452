"""The table of model sources."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from service.errors import ModelLoadError, closest
from service.models.checkpoints import read_checkpoint, reason_not_to_read
from service.models.file_kinds import CHECKPOINT, OLD_CHECKPOINT, SAFETENSORS, kind_of
from service.models.sources import (
    clip,
    embedded,
    exported,
    hugging_face,
    keras,
    onnx,
    python,
    timm_models,
    torchvision_models,
)
from service.models.sources.source import Source
from service.models.state_dicts import reason_if_whole_model

__all__ = ["SOURCES", "find_source", "name_of"]


_PYTHON = Source(
    "Your own code, by its name: mypackage.nets.build",
    python.load,
    python.has,
    options=frozenset({"factory_args", "use_ema"}),
)

SOURCES: dict[str, Source] = {
    "embedded": Source("Embedded in this package", embedded.load, embedded.has, embedded.architectures),
    "torchvision": Source(
        "torchvision classification models",
        torchvision_models.load,
        torchvision_models.has,
        torchvision_models.architectures,
        options=frozenset({"transform_input", "use_ema"}),
    ),
    "timm": Source(
        "Networks of timm: timm/NAME, or a folder that it saved",
        timm_models.load,
        timm_models.has,
        reads=timm_models.reads,
        options=frozenset({"factory_args", "use_ema"}),
    ),
    "hf": Source(
        "Image classifiers of Hugging Face: a folder, or hf/NAME",
        hugging_face.load,
        hugging_face.has,
        reads=hugging_face.reads,
        options=frozenset({"factory_args", "use_ema"}),  # of timm's networks on the hub
    ),
    "keras": Source("Keras 3: the path of a .keras or .h5 file", keras.load, reads=keras.reads),
    "python": _PYTHON,
    "exported": Source("Programs of torch.export: a .pt2 file", exported.load, reads=exported.reads),
    "onnx": Source("ONNX graphs: an .onnx file", onnx.load, reads=onnx.reads),
    "clip": Source(
        "Zero-shot classifiers of open_clip: clip/ViT-B-32",
        clip.load,
        clip.has,
        options=frozenset({"prompts", "use_ema"}),
    ),
}


def find_source(architecture: str, weights: str | None = None, source: str | None = None) -> Source:
    """Find the source that has ``architecture``: by its name, or, of a file or folder, by what is in it.

    Args:
        architecture: from the configuration.
        weights: what stands behind its colon, which the message may need.
        source: the name of the one to take whatever the artefact looks like.

    Raises:
        ModelLoadError: none has, or it is a file that none reads; the message says what it is, or names the closest.
    """
    if source is not None:
        return _forced(source)
    for found in SOURCES.values():
        if found is not _PYTHON and found.has(architecture):
            return found
    path = Path(architecture)
    if path.exists():
        for found in SOURCES.values():
            if found.reads(path):
                return found
    if reason := _reason_if_path(architecture):
        raise ModelLoadError(reason)
    if _PYTHON.has(architecture):
        return _PYTHON
    # A module and its function, apart by a colon.
    names = architecture.isidentifier() and (weights or "").partition(":")[0].isidentifier()
    if names and importlib.util.find_spec(architecture) is not None:
        return _PYTHON
    known = [name for source in SOURCES.values() for name in source.architectures()]
    near = closest(architecture, known)
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ModelLoadError(f"There is no architecture {architecture!r}.{meant} `camserve models` lists them. {_FUNCTION}")


def name_of(source: Source) -> str:
    """Return what a row of the table is called."""
    return next(name for name, row in SOURCES.items() if row is source)


def _forced(name: str) -> Source:
    if name not in SOURCES:
        near = closest(name, SOURCES)
        meant = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ModelLoadError(f"There is no source {name!r} of models.{meant} There are {', '.join(SOURCES)}.")
    return SOURCES[name]


_FUNCTION = (
    "Networks of timm are named timm/NAME, those of Hugging Face hf/NAME or by their folder. For one of your own, "
    "write a function that returns it and name that: mypackage.nets.build."
)

# What models come in; who names such a file as an architecture means no module to import.
_WEIGHTS = {".bin", ".ckpt", ".pkl", ".pt", ".pth", ".safetensors", ".tar", ".zip"}
_MODELS = {".gguf", ".h5", ".hdf5", ".keras", ".mar", ".mlmodel", ".mlpackage", ".onnx", ".pb", ".pt2", ".tflite"}
_SUFFIXES = _WEIGHTS | _MODELS | {".py"}


def _reason_if_path(architecture: str) -> str | None:
    """Say why an architecture that is a file or folder is none, told by its content; None where it is no path."""
    path = Path(architecture)
    if not path.exists():
        if "/" not in architecture and path.suffix.lower() not in _SUFFIXES:
            return None
        return f"There is no architecture and no file {architecture}. {_FUNCTION}"
    if path.suffix == ".py":
        return f"{path.name} is Python code. Name the function in it that builds the network: {path.stem}.build."
    try:
        kind = kind_of(path)
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}."
    if kind in {SAFETENSORS, CHECKPOINT, OLD_CHECKPOINT}:
        assert kind is not None
        if kind is not SAFETENSORS and (reason := reason_if_whole_model(path.name, read_checkpoint(path))):
            return f"{reason} Then name its architecture before them: resnet18:weights.pth."
        example = f"resnet18:{architecture}"
        return f"{path.name} is {kind.title}: weights without a network. Name its architecture before it: {example}."
    return reason_not_to_read(path, kind)
