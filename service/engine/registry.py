"""Which models there are, in which versions and states, and which worker holds what.

A name points to one version at a time. Another version of it is loaded beside that one; once it is ready, the name
points to it, and the old one drains: it serves the requests that have begun with it, and then it is dropped. An alias
is a further name, which points to one version and keeps it until it is moved.

The label of a version (``IMAGENET1K_V2``, the beginning of a digest) is known only once the weights are read. Until
then, and between front and workers, a version goes by its revision: see :class:`service.models.info.ModelKey`.

Runs in the front process.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from service.engine.versions import HeldVersion, Labels, ModelStatus, Version, VersionStatus
from service.errors import NameTaken, NotReady, UnknownAlias, UnknownModel, UnknownVersion
from service.models.info import ModelKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from service.models.info import Computing, ModelInfo
    from service.settings import ModelConfig
    from service.vocabulary import LoadingStage

__all__ = ["ModelStatus", "Registry", "VersionStatus"]


class Registry:
    """Owns the life of every model. Lives in one event loop, which alone may call it.

    Args:
        on_drained: called once with a version that nobody needs any more, for the workers that hold or load it to drop.
    """

    def __init__(self, on_drained: Callable[[ModelKey], None] = lambda _key: None) -> None:
        self._on_drained = on_drained
        self._versions: dict[ModelKey, Version] = {}
        self._current: dict[str, ModelKey] = {}
        self._aliases: dict[str, ModelKey] = {}
        self._labels = Labels()
        # Worker → what it was told to load and has not answered, in that order.
        self._told: dict[int, list[ModelKey]] = {}
        self._revisions = 0

    # -- which models there are ---------------------------------------------------------------------------------------

    def add(self, config: ModelConfig) -> ModelKey:
        """Add a model, or a version that is to replace the one its name points to.

        Another replacement that has not taken over by now never will: the latest counts.

        Raises:
            NameTaken: an alias is called so.
        """
        if config.name in self._aliases:
            raise NameTaken(f"{config.name!r} is an alias. Choose another name for the model, or remove the alias.")
        version = self._new(config)
        current = self._current.setdefault(config.name, version.key)
        for other in self._of(config.name):
            if other.key not in {current, version.key}:
                self._drain(other)
        return version.key

    def hold(self, alias: str, config: ModelConfig, content: str | None = None) -> None:
        """Have an alias point to the version that is loaded from ``config``, which never takes over if it is another.

        Where ``content`` is given, there is a warning if it is not the digest of what is found.

        Raises:
            UnknownModel: there is no such model.
        """
        version = self.find(config.name)
        if version.config != config:
            version = self._new(config)
            version.beside = True
        self._aliases[alias] = version.key
        if content:
            version.expected[alias] = content

    def expect(self, name: str, content: str) -> None:
        """Have a model be warned of if ``content`` is not the digest of what is found."""
        self.find(name).expected[name] = content

    def content(self, name: str) -> str | None:
        """Return the digest of what a name is to point to: what it pointed to first, or what was found."""
        version = self.find(name)
        return version.expected.get(name) or (version.known.content if version.known else None)

    def _new(self, config: ModelConfig) -> Version:
        self._revisions += 1
        key = ModelKey(config.name, self._revisions)
        self._versions[key] = Version(key, config)
        return self._versions[key]

    def remove(self, name: str) -> None:
        """Forget a name; its versions serve what has begun, and go.

        Raises:
            UnknownModel: there is none of that name.
        """
        if name not in self._current:
            raise UnknownModel.among(name, self._current)
        del self._current[name]
        self._aliases = {alias: key for alias, key in self._aliases.items() if key.name != name}
        self._labels.forget(name)
        for version in self._of(name):
            self._drain(version)

    def point(self, alias: str, name: str, label: str) -> None:
        """Have an alias point to a version of a model, which stays for as long as it does.

        Raises:
            UnknownModel, UnknownVersion: there is none.
            NameTaken: a model is called as the alias.
        """
        if alias in self._current:
            raise NameTaken(f"{alias!r} is the name of a model. Choose another name for the alias.")
        version = self.find(name, label)
        before = self._aliases.get(alias)
        version.expected.pop(alias, None)
        self._aliases[alias] = version.key
        self._drop_if_unnamed(before)

    def unpoint(self, alias: str) -> None:
        """Remove an alias; the version goes unless another name points to it.

        Raises:
            UnknownAlias: there is none of that name.
        """
        if alias not in self._aliases:
            raise UnknownAlias.among(alias, self._aliases)
        self._drop_if_unnamed(self._aliases.pop(alias))

    def _drop_if_unnamed(self, key: ModelKey | None) -> None:
        if key in self._versions and key not in self._named():
            self._drain(self._versions[key])

    def _named(self) -> set[ModelKey]:
        return {*self._current.values(), *self._aliases.values()}

    def aliases(self) -> Mapping[str, VersionStatus]:
        """Return the aliases, and the versions that they point to."""
        return {alias: self._status_of(self._versions[key]) for alias, key in sorted(self._aliases.items())}

    def put_out(self, key: ModelKey) -> None:
        """Have workers drop a version until somebody asks for it; what has begun with it is finished."""
        old, new = self._versions[key], self._new(self._versions[key].config)
        new.unloaded, new.on_demand, new.known, new.expected = True, True, old.known, old.expected
        for names in (self._current, self._aliases):
            names.update({name: new.key for name, pointed in names.items() if pointed == key})
        self._drain(old)

    def wake(self, name: str | None = None, label: str | None = None) -> tuple[ModelKey, ModelConfig] | None:
        """Return what is to be loaded because somebody asks for it; None where nothing is."""
        version = self.find(name, label)
        if not version.unloaded:
            return None
        version.unloaded = False
        return version.key, version.config

    def wanted(self) -> list[tuple[ModelKey, ModelConfig]]:
        """What a new worker loads: all that may be asked for, and what drains while somebody still needs it.

        A replacement that could not be loaded is not tried again: it would take over at a moment that nobody chose.
        """
        return [
            (key, version.config)
            for key, version in self._versions.items()
            if not (version.drained or version.unloaded or self._given_up(version))
        ]

    # -- what workers hold --------------------------------------------------------------------------------------------

    def told(self, worker: int, keys: Iterable[ModelKey]) -> None:
        """Note that a worker was told to load ``keys``, in this order."""
        for key in keys:
            self._told.setdefault(worker, []).append(key)
            self._versions[key].loading[worker] = 0.0
            self._versions[key].stages[worker] = "waiting"
            self._versions[key].awaited.discard(worker)

    def progressed(self, worker: int, key: ModelKey, fraction: float, stage: LoadingStage) -> None:
        """Note how much of a version a worker has loaded, and what it does."""
        version = self._versions.get(key)
        if version is not None and worker in version.loading:
            version.loading[worker], version.stages[worker] = fraction, stage

    def loaded(self, worker: int, key: ModelKey, info: ModelInfo) -> None:
        """Note that a worker holds a version, which may let the name point to it."""
        if (version := self._answered(worker, key)) and version.given_up is None:
            if version.contradicts(info):
                version.failures[worker] = version.contradiction(info)
            else:
                known = version.known if version.known and version.known.digest == info.digest else None
                label = known.version if known else self._labels.label(info)
                version.known = version.infos[worker] = replace(info, version=label)
                version.failures.pop(worker, None)
                version.on_demand = False
            self._take_over(key.name)

    def computes(self, worker: int, key: ModelKey, computing: Computing) -> None:
        """Note how a worker computes a version that it holds. Once it is put out, it is told how it was loaded."""
        version = self._versions.get(key)
        if version is not None and worker in version.infos:
            version.infos[worker] = replace(version.infos[worker], computing=computing)

    def failed(self, worker: int, key: ModelKey, reason: str, *, for_all: bool = False) -> None:
        """Note that a worker cannot load a version; ``for_all``, that the replacements of others will not either."""
        if version := self._answered(worker, key):
            version.failures[worker] = reason
            if for_all:
                version.awaited.clear()
            self._take_over(key.name)

    def unloaded(self, worker: int, key: ModelKey) -> None:
        """Note that a worker does not hold a version any more; once none does, a drained one is forgotten."""
        if version := self._answered(worker, key):
            version.infos.pop(worker, None)
            version.failures.pop(worker, None)
            self._forget_if_gone(version)

    def lost(self, worker: int) -> None:
        """Note that a worker has ended, and holds nothing any more; what it was loading waits for its replacement.

        What no other worker holds will be loaded again: who asks for it meanwhile waits, as for what was put out.
        """
        for version in list(self._versions.values()):
            if self._given_up(version):
                version.infos.pop(worker, None)  # it had not dropped it yet
                self._forget_if_gone(version)
                continue
            version.on_demand |= set(version.infos) == {worker}
            comes_back = worker in version.loading or (worker in version.infos and self._may_take_over(version))
            self.unloaded(worker, version.key)
            version.awaited |= {worker} if comes_back else set()
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
        return {*version.loading, *version.infos, *version.failures}

    def failed_on(self, worker: int) -> list[ModelKey]:
        """Return what a worker could not load."""
        return [key for key, version in self._versions.items() if worker in version.failures]

    def has_answered(self, key: ModelKey) -> bool:
        """Whether some worker held a version, or what it was loaded from, at any time."""
        version = self._versions.get(key)
        return version is not None and version.known is not None

    def holds(self, worker: int, key: ModelKey) -> bool:
        """Whether a worker answers for a version."""
        version = self._versions.get(key)
        return version is not None and worker in version.infos

    # -- asking -------------------------------------------------------------------------------------------------------

    def status(self, name: str | None = None, label: str | None = None) -> ModelStatus:
        """Tell how a model is; without a name, the default one.

        Raises:
            UnknownModel, UnknownVersion: there is none of that name, or no version of it has that label.
        """
        found = self.find(name, label)
        return ModelStatus(
            found.config, found.state, found.reason, found.info, found.warned(found.known), found.on_demand
        )

    def statuses(self) -> list[ModelStatus]:
        """Tell how every model is, in the order in which they were added; the first is the default."""
        return [self.status(name) for name in self._current]

    def versions(self, name: str) -> list[VersionStatus]:
        """List the versions of a model that are there or on their way, oldest first; none for a name that is not."""
        return [self._status_of(version) for version in self._of(name)]

    def configs(self, name: str) -> list[ModelConfig]:
        """Return what the versions of a model that are there or on their way are loaded from, oldest first."""
        return [version.config for version in self._of(name)]

    def every_config(self) -> list[ModelConfig]:
        """Return what all versions are loaded from, of whatever model and in whatever state."""
        return [version.config for version in self._versions.values()]

    def version(self, key: ModelKey) -> VersionStatus | None:
        """Tell how a version is; None once it is forgotten."""
        version = self._versions.get(key)
        return None if version is None else self._status_of(version)

    def has(self, name: str) -> bool:
        """Whether there is a model of that name."""
        return name in self._current

    def settled(self, key: ModelKey) -> bool:
        """Whether nothing is to come of a version any more but what it is: it answers, failed, drains or is gone."""
        version = self._versions.get(key)
        return version is None or version.draining or not self._is_on_its_way(version)

    def _is_on_its_way(self, version: Version) -> bool:
        if version.given_up is not None or self._given_up(version):
            return False
        return bool(version.loading or version.awaited) or version.state == "loading"

    def held(self) -> dict[ModelKey, HeldVersion]:
        """Return every version that some worker holds, and has not been told to drop."""
        return {
            key: HeldVersion(version.info, version.devices, idle=self._is_idle(version))
            for key, version in self._versions.items()
            if version.info is not None and not version.drained
        }

    def _is_idle(self, version: Version) -> bool:
        needed = version.leases or version.loading or version.draining or self._has_successor(version)
        return not needed and version.key in self._named()

    def _has_successor(self, version: Version) -> bool:
        """Whether it answers until another one takes over, or goes on if that cannot be loaded."""
        if version.key != self._current.get(version.key.name):
            return False
        return any(self._may_take_over(each) and self._is_on_its_way(each) for each in self._of(version.key.name))

    def unloaded_names(self) -> list[str]:
        """Return the models that are loaded when somebody asks for them."""
        return [name for name, key in self._current.items() if self._versions[key].unloaded]

    def is_loading(self, name: str) -> bool:
        """Whether some version of a model that may take over, or that somebody waits for, is still being loaded."""
        return any(self._is_on_its_way(version) and not version.draining for version in self._of(name))

    @contextmanager
    def lease(self, name: str | None = None, label: str | None = None) -> Iterator[ModelInfo]:
        """Hold on to the version that a name points to: however long the block takes, it is not dropped.

        Raises:
            UnknownModel, UnknownVersion: there is none of that name, or no version of it has that label.
            NotReady: no worker holds it.
        """
        version = self.find(name, label)
        if version.info is None:
            raise NotReady(f"Model {version.key.name!r} is not ready.", retry_after_s=2)
        version.leases += 1
        try:
            yield version.info
        finally:
            version.leases -= 1
            self._dismiss_if_drained(version)

    def find(self, name: str | None, label: str | None = None) -> Version:
        """Return the version that a model's name or an alias points to; of a label, the version that has it.

        Raises:
            UnknownModel, UnknownVersion: there is none.
        """
        wanted = next(iter(self._current), "") if name is None else name
        key = self._current.get(wanted) or self._aliases.get(wanted)
        if key is None:
            raise UnknownModel.among(str(name), self._current | self._aliases)
        if label is None:
            return self._versions[key]
        # Of a replacement that is on its way with the label of the version that answers, the latter.
        versions = [
            each
            for each in self._of(key.name)
            if not each.draining and each.given_up is None and each.known is not None
        ]
        found = next((each for each in versions if each.label == label), None)
        if found is None:
            raise UnknownVersion.among(label, [str(each.label) for each in versions], model=key.name)
        return found

    # -- inside -------------------------------------------------------------------------------------------------------

    def _status_of(self, version: Version) -> VersionStatus:
        return VersionStatus(
            version.key,
            version.config,
            version.label,
            "draining" if version.draining else version.state,
            version.reason,
            version.progress,
            version.stage,
            self._current.get(version.key.name) == version.key,
            tuple(sorted(alias for alias, key in self._aliases.items() if key == version.key)),
        )

    def _of(self, name: str) -> list[Version]:
        return [version for version in self._versions.values() if version.key.name == name]

    def _given_up(self, version: Version) -> bool:
        """Whether it is a replacement that could not be loaded, and stays so."""
        return version.state == "failed" and not version.loading and version.key not in self._named()

    def _answered(self, worker: int, key: ModelKey) -> Version | None:
        """Return the version that a worker speaks of; None if it was forgotten meanwhile."""
        version = self._versions.get(key)
        if version is not None:
            version.loading.pop(worker, None)
            version.awaited.discard(worker)
            waiting = self._told.get(worker, [])
            if key in waiting:
                waiting.remove(key)
        return version

    def _take_over(self, name: str) -> None:
        """Point ``name`` to a newer version that workers hold, once no worker is still to load it.

        Where one of them cannot, it is given up if an older version answers: fewer workers would answer than before.
        """
        current = self._current.get(name)
        for version in self._of(name):
            if not (self._may_take_over(version) and version.infos) or version.loading:
                continue
            if version.failures and current is not None and self._versions[current].infos:
                self._give_up(version)
            elif not version.awaited:
                self._current[name] = current = version.key
                for older in self._of(name):
                    if older.key.revision < version.key.revision:
                        self._drain(older)

    def _may_take_over(self, version: Version) -> bool:
        current = self._current.get(version.key.name)
        newer = current is not None and version.key.revision > current.revision
        return newer and not (version.beside or version.draining)

    def _give_up(self, version: Version) -> None:
        """Let a version fail that some workers hold and another cannot load; those drop it."""
        if version.given_up is None:
            reason = next(iter(version.failures.values()))
            version.given_up = f"{reason} Other workers could load it; it answers only where all can."
            version.awaited.clear()
            self._dismiss_if_drained(version)

    def _drain(self, version: Version) -> None:
        """Let a version go that the model's name does not point to, unless an alias does."""
        if not version.draining and version.key not in self._aliases.values():
            version.draining = True
            self._dismiss_if_drained(version)

    def _dismiss_if_drained(self, version: Version) -> None:
        if version.drained:
            self._on_drained(version.key)
            self._forget_if_gone(version)

    def _forget_if_gone(self, version: Version) -> None:
        if version.draining and version.drained and not version.infos and not version.loading:
            self._versions.pop(version.key, None)
