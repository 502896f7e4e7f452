"""What may be loaded because somebody asks for it over HTTP: files in some folders, functions of some modules.

What is a file and what is code is told here by how it is written, before any source sees it, and what is neither for
certain counts as a file: a path that lies in no listed folder is refused whether or not it exists.

Runs in the front process.
"""

from __future__ import annotations

import re
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from service.errors import PathNotAllowed, SourceNotAllowed, shorten
from service.model_config import ModelConfig, NoPath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.settings import Settings

__all__ = ["permitted"]

# A name within a source: of a network, or of an entry of weights. With dots only where a source is named before it.
_PLAIN = re.compile(r"[A-Za-z0-9_-]{1,200}")
_DOTTED = re.compile(r"(?=.{1,200}$)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST_PATH = 4096
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*([.:][A-Za-z_]\w*)", re.ASCII)
_PREFIXED = re.compile(r"(?P<source>timm|hf|open_clip|clip)/(?P<name>[^:]+)(:(?P<weights>.+))?", re.DOTALL)
_HUB_NAME = re.compile(r"(?=.{1,200}$)[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)?")
# What artefacts are called: a dotted name that ends so is a file, not a function.
_ARTEFACTS = {
    ".keras",
    ".h5",
    ".hdf5",
    ".onnx",
    ".pt2",
    ".pt",
    ".pth",
    ".safetensors",
    ".bin",
    ".ckpt",
    ".tflite",
    ".pb",
}


def permitted(config: ModelConfig, settings: Settings) -> ModelConfig:
    """Return a configuration that came over HTTP, with whole paths in the place of those in it.

    Raises:
        PathNotAllowed: it names a file outside ``model_dirs``, a URL, a pipe or a device, also among the arguments of a
            function.
        SourceNotAllowed: it names a function of a module that ``management_modules`` does not list.
    """
    folders = _Folders(settings.model_dirs)
    changed: dict[str, Any] = _network(config, folders, settings.management_modules)
    if config.weights is not None and "weights" not in changed:
        changed["weights"] = _weights(config.weights, folders)
    changed["factory_args"] = _arguments(config.factory_args, folders)
    for name in config.model_fields_set - changed.keys() - _JUDGED:
        changed[name] = _whole(getattr(config, name), folders)
    return config.model_copy(update={name: value for name, value in changed.items() if value != getattr(config, name)})


def _never_paths() -> set[str]:
    """Return the fields whose type has no room for the name of a file."""
    return {
        name for name, found in ModelConfig.model_fields.items() if not _may_be_path(found.annotation, found.metadata)
    }


def _may_be_path(annotation: Any, metadata: Sequence[object] = ()) -> bool:
    """Whether a value of a type may name a file: a ``Path``, or a text that is not marked as anything else."""
    if any(isinstance(mark, NoPath) for mark in metadata):
        return False
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return False
    if origin is Annotated:
        return _may_be_path(arguments[0], arguments[1:])
    if origin is dict:
        return _may_be_path(arguments[1])
    if arguments:
        return any(_may_be_path(argument) for argument in arguments)
    return annotation in {str, object, Any} or (isinstance(annotation, type) and issubclass(annotation, Path))


def _whole(value: Any, folders: _Folders) -> Any:
    """Return whole paths in the place of all that a value holds, of a field that names files."""
    if isinstance(value, dict):
        return {key: _whole(each, folders) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_whole(each, folders) for each in value)
    if isinstance(value, Path):
        return Path(folders.path(str(value)))
    return folders.path(value) if isinstance(value, str) else value


def _arguments(value: Any, folders: _Folders) -> Any:
    """Return the arguments of a function; texts among them that look like paths must lead into the folders.

    Raises:
        PathNotAllowed: one does not, or is a URL.
    """
    if isinstance(value, dict):
        return {key: _arguments(each, folders) for key, each in value.items()}
    if isinstance(value, list):
        return [_arguments(each, folders) for each in value]
    if not isinstance(value, str) or not value:
        return value
    if re.search(r"[/\\\0]", value) or value in {".", "..", "~"} or folders.has(value):
        return folders.path(value)
    _check_shadow(value)
    return value


def _network(config: ModelConfig, folders: _Folders, modules: Sequence[str]) -> dict[str, Any]:
    """Return what is to be changed so that the architecture is a name, an allowed function, or a whole path."""
    text, source = config.architecture, getattr(config, "source", None)
    if source == "python" or (source is None and _is_function(text, folders)):
        _check_module(text, modules)
        return {}
    if source not in (None, "python") and _DOTTED.fullmatch(text) and not folders.has(text):
        _check_shadow(text)
        return {}
    if _PLAIN.fullmatch(text) and not folders.has(text):
        _check_shadow(text)
        if source is None and config.weights is not None and _is_module(text):
            # "mynets" with the weights "build" is the function mynets.build, apart by the colon of the short form.
            _check_module(f"{text}:{config.weights.partition(':')[0]}", modules)
        return {}
    if prefixed := _PREFIXED.fullmatch(text):
        return _prefixed(prefixed, folders)
    return {"architecture": folders.path(text)}


def _prefixed(found: re.Match[str], folders: _Folders) -> dict[str, Any]:
    """Check ``timm/NAME:weights`` and its like; behind ``timm/`` and the others may be a name of a hub, or a path."""
    name, weights = found["name"], found["weights"]
    if _HUB_NAME.fullmatch(name):
        _check_shadow(name)
    else:
        name = folders.path(name)
    behind = "" if weights is None else f":{_weights(weights, folders)}"
    return {"architecture": f"{found['source']}/{name}{behind}"}


def _weights(text: str, folders: _Folders) -> str:
    """Return the name of an entry as it is, and a file's path as a whole one."""
    if _PLAIN.fullmatch(text) and not folders.has(text):
        _check_shadow(text)
        return text
    return folders.path(text)


def _is_function(text: str, folders: _Folders) -> bool:
    return (
        _FUNCTION.fullmatch(text) is not None and Path(text).suffix.lower() not in _ARTEFACTS and not folders.has(text)
    )


def _is_module(name: str) -> bool:
    """Whether a worker could import ``name``; nothing is imported. Workers have the working directory on their path."""
    return name.isidentifier() and (
        find_spec(name) is not None or PathFinder.find_spec(name, [str(Path.cwd())]) is not None
    )


def _check_module(text: str, modules: Sequence[str]) -> None:
    module = text.partition(":")[0] if ":" in text else text.rpartition(".")[0]
    if not module:
        raise SourceNotAllowed(f"{shorten(text)!r} names no function of a module, such as mynets.build.")
    if module not in modules or not _FUNCTION.fullmatch(text):
        raise SourceNotAllowed(
            f"{shorten(text)!r} would run code of the module {shorten(module)!r}, which the setting management_modules "
            "does not list. Ask whoever runs this service to list it, or name a file of weights."
        )


def _check_shadow(name: str) -> None:
    """Refuse a name that is a file where the service runs: a source may prefer the file."""
    if _exists(Path(name)):
        raise PathNotAllowed(
            f"{shorten(name)!r} is a file or folder where this service runs, outside the folders of the setting "
            "model_dirs. Put it there, or choose another name."
        )


class _Folders:
    """The folders in which files may lie.

    Relative paths are relative to them, the first that has the file counts. Links are followed before it is judged
    where a file lies, and what is loaded is the file that was judged.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = [folder.resolve() for folder in folders]

    def has(self, text: str) -> bool:
        """Whether a relative path is there."""
        return any(_exists(folder / text) for folder in self._folders)

    def path(self, text: str) -> str:
        """Return a whole path.

        Raises:
            PathNotAllowed: it lies in none of the folders, is a pipe, socket or device, or is no path at all.
        """
        if self._folders and "\0" not in text and len(text) <= _LONGEST_PATH and not _URL.match(text):
            tried = [folder / text for folder in self._folders]
            chosen = next((path for path in tried if _exists(path)), tried[0])
            try:
                whole = chosen.resolve()
            except (OSError, RuntimeError):  # a name that is too long, links that lead in circles
                whole = Path("/")
            if any(whole != folder and whole.is_relative_to(folder) for folder in self._folders):
                if _exists(whole) and not (whole.is_file() or whole.is_dir()):
                    raise PathNotAllowed(f"{shorten(text)!r} is a pipe, a socket or a device. Name a file or a folder.")
                return str(whole)
        where = (
            "lies in none of the folders of the setting model_dirs"
            if self._folders
            else ("cannot be used, as the setting model_dirs lists no folder")
        )
        raise PathNotAllowed(
            f"{shorten(text)!r} {where}. Put the file into such a folder and name it there; URLs are not read."
        )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


# Judged by what they mean, or known to name no file; whatever else a configuration comes to have is taken for a path.
_JUDGED = {"architecture", "weights", "factory_args"} | _never_paths()
