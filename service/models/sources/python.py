"""Models from Python code: a function or class by its name, as ``mypackage.nets.build`` or ``mypackage.nets:build``."""

from __future__ import annotations

import importlib
import inspect
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from service.errors import ModelLoadError, closest
from service.imaging.preprocess import PreprocessSpec
from service.models.sources.source import Downloads, LoadedModel, refuse_options
from service.models.state_dicts import digest, load_file_into

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import ModelConfig

__all__ = ["has", "load"]


def has(architecture: str) -> bool:
    """Return whether the name is dotted, or has a colon; names of other sources never do."""
    return "." in architecture or ":" in architecture


def load(config: ModelConfig, _downloads: Downloads) -> LoadedModel:
    """Call ``config.architecture`` with ``config.factory_args``; fill what it returns from ``config.weights`` if given.

    Raises:
        ModelLoadError: there is no such code, it fails, or it returns something else than a module.
    """
    name, factory, weights = _find_factory(config)
    module = _call(name, factory, config.factory_args)
    # The customary ImageNet preprocessing; the configuration overrides it.
    spec = PreprocessSpec("crop", 224, 224, resize=256)
    if weights is None:
        refuse_options(config, "use_ema")
        return LoadedModel(module, spec, None, "code")
    file = Path(weights)
    warnings = load_file_into(module, file, use_ema=config.use_ema)
    return LoadedModel(module, spec, None, digest(file), warnings)


# -- by its name ------------------------------------------------------------------------------------------------------


def _find_factory(config: ModelConfig) -> tuple[str, Callable[..., Any], str | None]:
    """Return the function's name, itself, and the file of weights behind it, if any.

    What stands behind a module's colon is the name of its function, as in ``mynets:build:weights.pth``.
    """
    name, _, behind = config.architecture.partition(":")
    weights = ":".join(part for part in (behind, config.weights or "") if part)
    found = _find(name)
    if isinstance(found, ModuleType) and weights:
        function, _, weights = weights.partition(":")
        name, found = f"{name}.{function}", _member(found, name, function)
    if isinstance(found, ModuleType):
        raise ModelLoadError(f"{name} is a module. Name the function in it that builds the network: {name}.build.")
    if isinstance(found, nn.Module):
        raise ModelLoadError(f"{name} is a network already. Name a function that builds one whenever it is loaded.")
    if not callable(found):
        raise ModelLoadError(f"{name} is no function, but {type(found).__name__}. Name one that returns the network.")
    return name, found, weights or None


def _find(name: str) -> Any:
    """Import what a dotted name stands for: a module, or what is in one, however deep.

    Raises:
        ModelLoadError: there is none, or importing it fails, which is another thing.
    """
    first, *others = name.split(".")
    found, path = _import(first, name), first
    for part in others:
        if not hasattr(found, part) and hasattr(found, "__path__"):
            found = _import(f"{path}.{part}", name)
        else:
            found = _member(found, path, part)
        path = f"{path}.{part}"
    return found


def _import(module: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise ModelLoadError(f"There is no {name!r} to import ({error}). Is its folder on PYTHONPATH?") from error
        raise ModelLoadError(f"Importing {module} failed: {error}. Install it where the service runs.") from error
    except SystemExit as error:
        raise ModelLoadError(
            f'Importing {module} ran a script, which ended. Move what it does under if __name__ == "__main__".'
        ) from error
    except Exception as error:  # whatever the user's code raises
        raise ModelLoadError(f"Importing {module} failed: {_said(error)}.") from error


def _member(owner: Any, path: str, name: str) -> Any:
    """Return what is called so in a module or class.

    Raises:
        ModelLoadError: nothing is; the message has the closest functions.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        functions = [key for key in dir(owner) if not key.startswith("_") and callable(getattr(owner, key, None))]
        near = closest(name, functions)
        meant = f" Did you mean {' or '.join(f'{path}.{function}' for function in near)}?" if near else ""
        raise ModelLoadError(f"{path} has no function {name!r}.{meant}") from error


# -- what it returns --------------------------------------------------------------------------------------------------


def _call(name: str, factory: Callable[..., Any], args: dict[str, Any]) -> nn.Module:
    _check_args(name, factory, args)
    try:
        made = factory(**args)
    except ModuleNotFoundError as error:
        raise ModelLoadError(f"{name}() failed: {_said(error)}. Install it where the service runs.") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise ModelLoadError(f"{name}() failed: {_said(error)}.") from error
    if not isinstance(made, nn.Module):
        raise ModelLoadError(f"{name}() must return a torch.nn.Module; it returned {type(made).__name__}.")
    if isinstance(made, torch.jit.ScriptModule):
        raise ModelLoadError(
            f"{name}() returned TorchScript, whose layers cannot be watched. Return the module itself."
        )
    return made


def _check_args(name: str, factory: Callable[..., Any], args: dict[str, Any]) -> None:
    """Refuse arguments that the function does not take, before it has begun: what it raises itself is its own.

    Raises:
        ModelLoadError: some are missing or unknown; the message says what it takes, and how to give it.
    """
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # of some that are not written in Python
        return
    try:
        signature.bind(**args)
    except TypeError as error:
        required = [
            parameter.name
            for parameter in signature.parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
        ]
        lacking = [parameter for parameter in required if parameter not in args]
        example = f"factory_args.{lacking[0]}=…" if lacking else "factory_args"
        taken = ", ".join(signature.parameters) or "nothing"
        raise ModelLoadError(f"{name}() takes {taken}: {error}. Its arguments are given as {example}.") from error


def _said(error: BaseException) -> str:
    """Say what an exception says, and where in the user's code it was raised."""
    text = f"{type(error).__name__}: {error}".removesuffix(".").removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if frame.filename not in {__file__, importlib.__file__} and "<" not in frame.filename
    ]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else text
