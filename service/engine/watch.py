"""A folder is watched: what comes or changes in it is loaded and takes over, what goes is drained and gone.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from service.engine.watched_folder import read_folder
from service.errors import NameTaken

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.engine.pool import Pool
    from service.engine.watched_folder import Found, Mark
    from service.models.info import ModelKey
    from service.settings import ModelConfig, Settings

__all__ = ["Watch"]

log = logging.getLogger("camserve.models")

_EVERY_S = 1.0
# So many looks in a row must find a file as it was: one that is still being written is waited for.
_QUIET_LOOKS = 2


class Watch:
    """Looks at a folder every second. Lives in one event loop, which alone may call it.

    Args:
        folder: where to look.
        settings: which files and which code it may name, and what is served without it.
        pool: holds the models.
        used: hears of versions that are loaded because of it.
    """

    def __init__(self, folder: Path, settings: Settings, pool: Pool, used: Callable[[ModelKey], None]) -> None:
        self._folder, self._settings = folder, settings
        self._pool = pool
        self._used = used
        self._configured = {config.name: config for config in settings.models}
        # Model → its files as they were acted upon; as they were seen last, and how often in a row.
        self._done: dict[str, Mark] = {}
        self._seen: dict[str, tuple[Mark | None, int]] = {}
        self._loaded: dict[str, ModelConfig] = {}
        self._readable = True

    def begin(self) -> None:
        """Add what lies there at the start, for the workers to load with all the rest."""
        for name, found in (self._look() or {}).items():
            self._done[name] = found.mark
            self._change(name, found, self._pool.registry.add)

    async def run(self) -> None:
        """Look, again and again, until this is cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            found = await asyncio.to_thread(self._look)
            if found is not None:
                self._act(found)

    def _look(self) -> dict[str, Found] | None:
        """Return what lies there; None where that cannot be told, so that nothing is to change."""
        try:
            found = read_folder(self._folder, self._settings)
        except OSError as error:
            if self._readable:
                log.error("the watched folder %s cannot be read, its models stay as they are: %s", self._folder, error)
            self._readable = False
            return None
        self._readable = True
        return found

    def _act(self, found: dict[str, Found]) -> None:
        """Change what has been another way for long enough."""
        for name in found.keys() | self._done.keys():
            mark = found[name].mark if name in found else None
            before, times = self._seen.get(name, (None, 0))
            times = times + 1 if mark == before else 0
            self._seen[name] = mark, times
            if mark == self._done.get(name) or times < _QUIET_LOOKS or self._pool.registry.is_loading(name):
                continue
            if name in found:
                self._done[name] = found[name].mark
                self._change(name, found[name], self._pool.load)
            else:
                del self._done[name]
                self._remove(name)
        self._seen = {name: seen for name, seen in self._seen.items() if name in found or name in self._done}

    def _change(self, name: str, found: Found, load: Callable[[ModelConfig], ModelKey]) -> None:
        if found.problem is None:
            log.info("model %s in the watched folder is new or has changed", name)
        else:
            log.error("model %r in the watched folder cannot be loaded: %s", name, found.problem)
        if found.config is None:
            return
        self._loaded[name] = found.config
        try:
            if found.problem is None:
                self._used(load(found.config))
            else:
                self._pool.refuse(found.config, found.problem)
        except NameTaken as error:
            log.error("model %s in the watched folder cannot be served: %s", name, error.message)

    def _remove(self, name: str) -> None:
        """Remove a model whose files are gone; one of the settings is again what they say."""
        config = self._loaded.pop(name, None)
        if not self._pool.registry.has(name) or config not in self._pool.registry.configs(name):
            return  # somebody else has removed or replaced it
        log.info("model %s is gone from the watched folder", name)
        if name in self._configured:
            self._pool.load(self._configured[name])
        else:
            self._pool.remove(name)
