"""What a watched folder holds: models, by the names of its files and folders.

Whoever may write there may have files read that lie there or in ``model_dirs``, and code of ``management_modules`` run:
what may be named over HTTP, and no more.

Runs in the front process.
"""

from __future__ import annotations

import stat
import tomllib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from service.engine.file_marks import Mark, files_of, mark, texts_in
from service.engine.permitted import permitted
from service.errors import ServiceError
from service.models.file_kinds import CHECKPOINT, OLD_CHECKPOINT, SAFETENSORS, kind_of
from service.settings import ModelConfig

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["Found", "Mark", "read_folder"]

_ARTEFACTS = {".bin", ".ckpt", ".h5", ".hdf5", ".keras", ".onnx", ".pb", ".pt", ".pt2", ".pth", ".safetensors"}
_ARTEFACTS |= {".tflite"}
_LABELS = {".txt", ".names", ".csv", ".tsv", ".json", ".yaml", ".yml"}
# What programs call a file that they have not finished.
_UNFINISHED = {".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", ".download", ".new", ".swp", ".lock"}
_MOST_OPTIONS_BYTES = 1_000_000  # of a .toml
_MOST_LEVELS = 32  # of tables within tables in it


@dataclass(frozen=True)
class Found:
    """A model in the folder.

    Attributes:
        config: what it is to be loaded from; None where its name is none that a model may have.
        mark: of its files.
        problem: why it cannot be loaded, where that is known already.
    """

    config: ModelConfig | None
    mark: Mark
    problem: str | None = None


@dataclass
class _Parts:
    """Files and folders of one stem."""

    artefacts: list[Path] = field(default_factory=list)
    labels: list[Path] = field(default_factory=list)
    options: Path | None = None


def read_folder(folder: Path, settings: Settings) -> dict[str, Found]:
    """Return the models in ``folder`` by name.

    A file of a known suffix, or a folder with a ``config.json``, is one, called as it is before its suffix. A ``.toml``
    of the same stem has its keys, a ``.txt`` (``.csv``, ``.json``, ``.yaml``) its labels; a ``.toml`` alone names an
    architecture. Files that a ``.toml`` names are no models themselves.

    Raises:
        OSError: the folder cannot be read.
    """
    settings = settings.model_copy(update={"model_dirs": (folder, *settings.model_dirs)})
    models = {name: parts for name, parts in _by_stem(folder).items() if parts.artefacts or parts.options}
    options = {name: _options(parts.options) for name, parts in models.items()}
    named = {text for keys in options.values() if isinstance(keys, dict) for text in texts_in(keys)}
    found = {}
    for name, parts in models.items():
        if parts.options is None and all(artefact.name in named for artefact in parts.artefacts):
            continue
        found[name] = _found(name, parts, options[name], settings)
    return found


def _by_stem(folder: Path) -> dict[str, _Parts]:
    stems: defaultdict[str, _Parts] = defaultdict(_Parts)
    for path in sorted(folder.iterdir()):
        suffix = path.suffix.lower()
        if path.name.startswith(".") or path.name.endswith("~") or suffix in _UNFINISHED or _is_pipe_or_device(path):
            continue
        if path.is_dir():
            if (path / "config.json").is_file() or folder.joinpath(f"{path.name}.toml").is_file():
                stems[path.name].artefacts.append(path)
        elif suffix in _ARTEFACTS:
            stems[path.stem].artefacts.append(path)
        elif suffix == ".toml":
            stems[path.stem].options = path
        elif suffix in _LABELS:
            stems[path.stem].labels.append(path)
    return stems


def _is_pipe_or_device(path: Path) -> bool:
    """Whether opening it might wait for ever, or never come to an end."""
    try:
        mode = path.stat().st_mode
    except OSError:  # a link that leads nowhere, which is said when it is read
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _options(file: Path | None) -> dict[str, Any] | str:
    """Read the keys of a ``.toml``; a string says why that is not possible."""
    if file is None:
        return {}
    try:
        if file.stat().st_size > _MOST_OPTIONS_BYTES:
            return f"{file.name} has more than {_MOST_OPTIONS_BYTES // 1_000_000} MB: the options of a model are short."
        keys = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return f"{file.name} cannot be read: {error}."
    except RecursionError:
        keys = None
    if keys is None or _is_deeper(keys, _MOST_LEVELS):
        return f"{file.name} cannot be read: its tables or lists are nested too deeply."
    return keys


def _is_deeper(value: object, levels: int) -> bool:
    """Whether tables and lists stand within each other for more than some levels. Does not recurse."""
    level = [value]
    for _ in range(levels):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return bool(level)


def _found(name: str, parts: _Parts, options: dict[str, Any] | str, settings: Settings) -> Found:
    files = [*parts.artefacts, *parts.labels, *([parts.options] if parts.options else [])]
    try:
        anything = ModelConfig(name=name, architecture=str(files[0]))
    except ValidationError:
        return Found(None, mark(files), "A model's name may hold letters, digits, '.', '_' and '-' only.")
    try:
        config = permitted(_config(name, parts, options), settings)
    except _ProblemError as problem:
        return Found(anything, mark(files), str(problem))
    except ServiceError as error:
        return Found(anything, mark(files), error.message)
    return Found(config, mark([*files, *files_of(config), *_named_alike(config)]))


class _ProblemError(Exception):
    """Why something cannot be a model."""


def _config(name: str, parts: _Parts, options: dict[str, Any] | str) -> ModelConfig:
    """Make a configuration of what lies there.

    Raises:
        _ProblemError: there is none in it.
    """
    if isinstance(options, str):
        raise _ProblemError(options)
    if len(parts.artefacts) > 1:
        names = " and ".join(path.name for path in parts.artefacts)
        raise _ProblemError(f"{names} are both called {name!r}. Keep one of them, or give the other another name.")
    if options.get("name", name) != name:
        raise _ProblemError(f"A model is called as its file, {name!r}: leave name out of {name}.toml.")
    fields = {**options, "name": name}
    if parts.artefacts:
        fields |= _of_artefact(parts.artefacts[0], options)
    if len(parts.labels) == 1:
        fields.setdefault("labels", str(parts.labels[0]))
    if "architecture" not in fields:
        raise _ProblemError(f"There is no model beside {name}.toml, and no architecture in it.")
    try:
        return ModelConfig.model_validate(fields)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
        raise _ProblemError(f"{name}.toml is not right: {said}.") from error


def _of_artefact(artefact: Path, options: dict[str, Any]) -> dict[str, str]:
    """Say what an artefact is: the weights of the architecture in the options, or the whole model."""
    if "architecture" in options:
        return {"weights": options.get("weights", str(artefact))}
    try:
        kind = None if artefact.is_dir() else kind_of(artefact)
    except OSError as error:
        raise _ProblemError(f"{artefact.name} cannot be read: {error.strerror}.") from error
    if kind in {SAFETENSORS, CHECKPOINT, OLD_CHECKPOINT}:
        raise _ProblemError(
            f"{artefact.name} holds weights without a network. Write into {artefact.stem}.toml, beside it, what they "
            'are of: architecture = "resnet18".'
        )
    return {"architecture": str(artefact)}


def _named_alike(config: ModelConfig) -> list[Path]:
    """Return the files whose names go on after the artefact's: what is being written beside it belongs to it."""
    artefact = Path(config.architecture)
    return list(artefact.parent.glob(f"{_escaped(artefact.name)}?*")) if artefact.is_absolute() else []


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
