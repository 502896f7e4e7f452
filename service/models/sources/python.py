"""Models from Python code: a function or class by its dotted name, such as ``mypackage.nets.build``."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from service.errors import ModelLoadError
from service.imaging.preprocess import PreprocessSpec
from service.models.sources.source import Downloads, LoadedModel, refuse_options
from service.models.state_dicts import digest, load_file_into

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
    refuse_options(config, "transform_input")
    module = _build(config)
    # The customary ImageNet preprocessing; the configuration overrides it.
    spec = PreprocessSpec("crop", 224, 224, resize=256)
    if config.weights is None:
        refuse_options(config, "use_ema")
        return LoadedModel(module, spec, None, "code")
    file = Path(config.weights)
    warnings = load_file_into(module, file, use_ema=config.use_ema)
    return LoadedModel(module, spec, None, digest(file), warnings)


def _build(config: ModelConfig) -> nn.Module:
    name = config.architecture
    factory = _find(name)
    if isinstance(factory, ModuleType):
        function = config.weights or "build"
        raise ModelLoadError(f"{name} is a module. Name the function in it that builds the network: {name}.{function}.")
    try:
        made = factory()
    except Exception as error:  # whatever the user's code raises
        reason = f"{name}() failed: {type(error).__name__}: {error}"
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            reason += ". Name a function that takes none, and calls it with what it needs"
        raise ModelLoadError(f"{reason}.") from error
    if not isinstance(made, nn.Module):
        raise ModelLoadError(f"{name}() must return a torch.nn.Module; it returned {type(made).__name__}.")
    if isinstance(made, torch.jit.ScriptModule):
        raise ModelLoadError(
            f"{name}() returned TorchScript, whose layers cannot be watched. Return the module itself."
        )
    return made


def _find(name: str) -> Any:
    package, _, attribute = name.rpartition(".")
    try:
        found = importlib.import_module(package)
        return getattr(found, attribute) if hasattr(found, attribute) else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ModelLoadError(f"There is no {name!r} to import ({error}). Is its folder on PYTHONPATH?") from error
        raise ModelLoadError(f"Importing {package} failed: {error}. Install it where the service runs.") from error
    except Exception as error:  # whatever the user's code raises
        raise ModelLoadError(f"Importing {package} failed: {type(error).__name__}: {error}.") from error
