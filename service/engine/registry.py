"""Which models there are, in which versions and states, and which worker holds what.

A name points to one version at a time. Another version of it is loaded beside that one; once it is ready, the name
points to it, and the old one drains: it serves the requests that have begun with it, and then it is dropped.

The label of a version (``IMAGENET1K_V2``, the beginning of a digest) is known only once the weights are read. Until
then, and between front and workers, a version goes by its revision: see :class:`service.models.info.ModelKey`.

Runs in the front process.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import NotReady, UnknownModel
from service.models.info import ModelKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from service.models.info import ModelInfo
    from service.settings import ModelConfig
    from service.vocabulary import ModelState, VersionState

__all__ = ["ModelStatus", "Registry", "VersionStatus"]


@dataclass(frozen=True)
class ModelStatus:
    """A model, as seen over all workers: the version that its name points to."""

    config: ModelConfig
    state: ModelState
    reason: str | None = None
    info: ModelInfo | None = None


@dataclass(frozen=True)
class VersionStatus:
    """One version of a model; ``version`` is its label, None until some worker has read the weights."""

    key: ModelKey
    version: str | None
    state: VersionState
    reason: str | None = None


@dataclass(eq=False)
class _Version:
    """A version and what is known of it; ``infos`` and ``failures`` by the number of the worker that told."""

    key: ModelKey
    config: ModelConfig
    loading: set[int] = field(default_factory=set)
    infos: dict[int, ModelInfo] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    leases: int = 0
    draining: bool = False

    @property
    def state(self) -> ModelState:
        if self.infos:
            return "ready"
        return "failed" if self.failures else "loading"

    @property
    def drained(self) -> bool:
        return self.draining and not self.leases

    @property
    def info(self) -> ModelInfo | None:
        return next(iter(self.infos.values()), None)

    @property
    def reason(self) -> str | None:
        return None if self.infos else next(iter(self.failures.values()), None)


class Registry:
    """Owns the life of every model. Lives in one event loop, which alone may call it.

    Args:
        on_drained: called once with a version that nobody needs any more, for the workers that hold or load it to drop.
    """

    def __init__(self, on_drained: Callable[[ModelKey], None] = lambda _key: None) -> None:
        self._on_drained = on_drained
        self._versions: dict[ModelKey, _Version] = {}
        self._current: dict[str, ModelKey] = {}
        # Worker → what it was told to load and has not answered, in that order.
        self._told: dict[int, list[ModelKey]] = {}
        self._revisions = 0

    # -- which models there are ---------------------------------------------------------------------------------------

    def add(self, config: ModelConfig) -> ModelKey:
        """Add a model, or a version that is to replace the one its name points to.

        Another replacement that has not taken over by now never will: the latest counts.
        """
        self._revisions += 1
        key = ModelKey(config.name, self._revisions)
        current = self._current.setdefault(config.name, key)
        for other in self._of(config.name):
            if other.key != current:
                self._drain(other)
        self._versions[key] = _Version(key, config)
        return key

    def remove(self, name: str) -> None:
        """Forget a name; its versions serve what has begun, and go.

        Raises:
            UnknownModel: there is none of that name.
        """
        self._find(name)
        del self._current[name]
        for version in self._of(name):
            self._drain(version)

    def wanted(self) -> list[tuple[ModelKey, ModelConfig]]:
        """What a new worker loads: all that may be asked for, and what drains while somebody still needs it.

        A replacement that could not be loaded is not tried again: it would take over at a moment that nobody chose.
        """
        return [
            (key, version.config)
            for key, version in self._versions.items()
            if not version.drained and not self._given_up(version)
        ]

    # -- what workers hold --------------------------------------------------------------------------------------------

    def told(self, worker: int, keys: Iterable[ModelKey]) -> None:
        """Note that a worker was told to load ``keys``, in this order."""
        for key in keys:
            self._told.setdefault(worker, []).append(key)
            self._versions[key].loading.add(worker)

    def loaded(self, worker: int, key: ModelKey, info: ModelInfo) -> None:
        """Note that a worker holds a version, which may let the name point to it."""
        if version := self._answered(worker, key):
            version.infos[worker] = info
            version.failures.pop(worker, None)
            self._take_over(key.name)

    def failed(self, worker: int, key: ModelKey, reason: str) -> None:
        """Note that a worker cannot load a version."""
        if version := self._answered(worker, key):
            version.failures[worker] = reason
            self._take_over(key.name)

    def unloaded(self, worker: int, key: ModelKey) -> None:
        """Note that a worker does not hold a version any more; once none does, a drained one is forgotten."""
        if version := self._answered(worker, key):
            version.infos.pop(worker, None)
            version.failures.pop(worker, None)
            self._forget_if_gone(version)

    def lost(self, worker: int) -> None:
        """Note that a worker has ended, and holds nothing any more; what waited for it alone takes over."""
        for version in list(self._versions.values()):
            if not self._given_up(version):
                self.unloaded(worker, version.key)
        self._told.pop(worker, None)
        for name in self._current:
            self._take_over(name)

    def missing(self, worker: int) -> list[ModelKey]:
        """Return what a worker was told to load and has neither loaded nor failed to load, in that order."""
        return list(self._told.get(worker, ()))

    def held_by(self, worker: int) -> list[ModelKey]:
        """Return what a worker answers for."""
        return [key for key, version in self._versions.items() if worker in version.infos]

    def involved(self, key: ModelKey) -> set[int]:
        """Return the workers that hold a version, are loading it, or failed to: one that is only late still will."""
        version = self._versions[key]
        return version.loading | set(version.infos) | set(version.failures)

    def failed_on(self, worker: int) -> list[ModelKey]:
        """Return what a worker could not load."""
        return [key for key, version in self._versions.items() if worker in version.failures]

    def holds(self, worker: int, key: ModelKey) -> bool:
        """Whether a worker answers for a version."""
        version = self._versions.get(key)
        return version is not None and worker in version.infos

    # -- asking -------------------------------------------------------------------------------------------------------

    def status(self, name: str | None = None) -> ModelStatus:
        """Tell how a model is; without a name, the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        version = self._find(name)
        return ModelStatus(version.config, version.state, version.reason, version.info)

    def statuses(self) -> list[ModelStatus]:
        """Tell how every model is, in the order in which they were added; the first is the default."""
        return [self.status(name) for name in self._current]

    def versions(self, name: str) -> list[VersionStatus]:
        """List the versions of a model that are there or on their way, oldest first; none for a name that is not."""
        return [
            VersionStatus(
                version.key,
                version.info.version if version.info else version.config.version,
                "draining" if version.draining else version.state,
                version.reason,
            )
            for version in self._of(name)
        ]

    @contextmanager
    def lease(self, name: str | None = None) -> Iterator[ModelInfo]:
        """Hold on to the version that a name points to: however long the block takes, it is not dropped.

        Raises:
            UnknownModel: there is none of that name.
            NotReady: no worker holds it.
        """
        version = self._find(name)
        if version.info is None:
            raise NotReady(f"Model {version.key.name!r} is not ready.", retry_after_s=2)
        version.leases += 1
        try:
            yield version.info
        finally:
            version.leases -= 1
            self._dismiss_if_drained(version)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _find(self, name: str | None) -> _Version:
        key = self._current.get(next(iter(self._current), "") if name is None else name)
        if key is None:
            raise UnknownModel.among(str(name), self._current)
        return self._versions[key]

    def _of(self, name: str) -> list[_Version]:
        return [version for version in self._versions.values() if version.key.name == name]

    def _given_up(self, version: _Version) -> bool:
        """Whether it is a replacement that could not be loaded, and stays so."""
        return version.state == "failed" and not version.loading and self._current.get(version.key.name) != version.key

    def _answered(self, worker: int, key: ModelKey) -> _Version | None:
        """Return the version that a worker speaks of; None if it was forgotten meanwhile."""
        version = self._versions.get(key)
        if version is not None:
            version.loading.discard(worker)
            waiting = self._told.get(worker, [])
            if key in waiting:
                waiting.remove(key)
        return version

    def _take_over(self, name: str) -> None:
        """Point ``name`` to a newer version that some worker holds, once no worker is still loading it."""
        current = self._current.get(name)
        for version in self._of(name):
            newer = current is not None and version.key.revision > current.revision
            if newer and version.infos and not version.loading and not version.draining:
                self._current[name] = version.key
                for older in self._of(name):
                    if older.key.revision < version.key.revision:
                        self._drain(older)

    def _drain(self, version: _Version) -> None:
        if not version.draining:
            version.draining = True
            self._dismiss_if_drained(version)

    def _dismiss_if_drained(self, version: _Version) -> None:
        if version.drained:
            self._on_drained(version.key)
            self._forget_if_gone(version)

    def _forget_if_gone(self, version: _Version) -> None:
        if version.drained and not version.infos and not version.loading:
            self._versions.pop(version.key, None)
