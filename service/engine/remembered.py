"""Models made at run time, kept in a file so that they are there after a restart.

Runs in the front process.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from service.engine.permitted import permitted
from service.errors import ServiceError
from service.settings import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from service.settings import Settings

__all__ = ["Remembered", "remembered_by", "write"]

log = logging.getLogger("camserve.models")


class _File(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    models: list[dict[str, Any]] = []
    aliases: dict[str, dict[str, Any]] = {}
    contents: dict[str, str] = {}


@dataclass(frozen=True)
class Remembered:
    """What is served at the start: the models of the settings, and those that were made at run time.

    Attributes:
        models: all of them; one made at run time stands in the place of the one in the settings that it replaced.
        at_run_time: names of those that were made at run time.
        aliases: further names, and what the versions that they point to are loaded from.
        contents: digests of the files or weights that models made at run time and aliases pointed to.
    """

    models: tuple[ModelConfig, ...]
    at_run_time: frozenset[str] = frozenset()
    aliases: Mapping[str, ModelConfig] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)


def remembered_by(settings: Settings) -> Remembered:
    """Read what was made at run time, where ``data_dir`` is set.

    A model that may not be loaded any more, because its folder or its module is no longer listed, is left out.

    Raises:
        ServiceError: the file is damaged; the message says what to do.
    """
    if settings.data_dir is None or not file_in(settings.data_dir).exists():
        return Remembered(settings.models)
    file = file_in(settings.data_dir)
    try:
        content = _File.model_validate_json(file.read_bytes())
        models = [ModelConfig.model_validate(fields) for fields in content.models]
        aliases = {alias: ModelConfig.model_validate(fields) for alias, fields in content.aliases.items()}
    except (OSError, ValidationError) as error:
        raise ServiceError(f"{file} cannot be read: {error}. Mend it, or remove it to forget what it holds.") from error
    allowed = {config.name: config for config in models if _still_permitted(config, settings)}
    in_place = [allowed.get(config.name, config) for config in settings.models]
    added = [config for name, config in allowed.items() if name not in {config.name for config in settings.models}]
    served = (*in_place, *added)
    names = {config.name for config in served}
    aliases = {
        alias: config
        for alias, config in aliases.items()
        if alias not in names
        and config.name in names
        and (config in settings.models or _still_permitted(config, settings))
    }
    return Remembered(served, frozenset(allowed), aliases, content.contents)


def _still_permitted(config: ModelConfig, settings: Settings) -> bool:
    if settings.watch is not None:  # an alias may point to what came from there
        settings = settings.model_copy(update={"model_dirs": (*settings.model_dirs, settings.watch)})
    try:
        permitted(config, settings)
    except ServiceError as error:
        log.error("model %s, made at run time, is left out: %s", config.name, error.message)
        return False
    return True


def file_in(folder: Path) -> Path:
    """Return the file that remembers."""
    return folder / "models.json"


def write(
    folder: Path, models: Sequence[ModelConfig], aliases: Mapping[str, ModelConfig], contents: Mapping[str, str]
) -> None:
    """Write what was made at run time; whoever reads the file finds all of it or what was there before.

    Raises:
        OSError: the disk is full, or the folder may not be written to.
    """
    content = {
        "models": [_fields(config) for config in models],
        "aliases": {alias: _fields(config) for alias, config in aliases.items()},
        "contents": dict(contents),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = file_in(folder)
    beside = file.with_suffix(".new")
    with beside.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=2)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)


def _fields(config: ModelConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_defaults=True)
