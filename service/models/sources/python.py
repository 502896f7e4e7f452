"""Models from Python code: a function or class by its dotted name, such as ``mypackage.nets.build``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.sources.source import Downloads, LoadedModel
from service.models.state_dicts import digest, load_into, read_state_dict

if TYPE_CHECKING:
    from service.settings import ModelConfig

__all__ = ["has", "load"]


def has(architecture: str) -> bool:
    """Return whether the name is dotted; names of other sources never are."""
    return "." in architecture


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Call ``config.architecture`` without arguments; fill the model it returns from ``config.weights`` if given.

    Raises:
        ModelLoadError: there is no such code, it fails, or it returns something else than a module.
    """
    module = _build(config.architecture)
    version = "code"
    if config.weights is not None:
        file = Path(config.weights)
        load_into(module, read_state_dict(file), file.name)
        version = digest(file)
    # The customary ImageNet preprocessing; the configuration overrides it.
    return LoadedModel(module, PreprocessSpec("crop", 224, 224, resize=256), None, version)


def _build(name: str) -> nn.Module:
    package, _, attribute = name.rpartition(".")
    try:
        made = getattr(importlib.import_module(package), attribute)()
    except (ImportError, AttributeError) as error:
        raise ModelLoadError(f"There is no {name!r} to import ({error}). Is its folder on PYTHONPATH?") from error
    except Exception as error:  # whatever the user's code raises
        raise ModelLoadError(f"{name}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ModelLoadError(f"{name}() must return a torch.nn.Module; it returned {type(made).__name__}.")
    return made
