"""Models that come, change and go while the service answers.

Every change is made beside what answers: another version is loaded, and takes over once it is ready.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from service.engine import remembered
from service.engine.memory_budget import MemoryBudget
from service.engine.permitted import permitted
from service.engine.watch import Watch
from service.errors import (
    DefaultModel,
    ManagementOff,
    ModelBusy,
    ModelLoadError,
    ModelSuperseded,
    NameTaken,
    NotReady,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from service.engine.pool import Pool
    from service.engine.versions import VersionStatus
    from service.metrics import Metrics
    from service.models.info import ModelKey
    from service.settings import ModelConfig, Settings

__all__ = ["Management"]

log = logging.getLogger("camserve.models")


class Management:
    """Changes what is served. Lives in one event loop, which alone may call it.

    Args:
        settings: what may be changed, and where it is remembered.
        metrics: counts what is put out.
        pool: holds the models.
        at_the_start: what was made at run time before the service was started again.
    """

    def __init__(self, settings: Settings, metrics: Metrics, pool: Pool, at_the_start: remembered.Remembered) -> None:
        self._metrics = metrics
        self._settings = settings
        self._pool = pool
        self._registry = pool.registry
        self._at_run_time = set(at_the_start.at_run_time)
        self._tasks: set[asyncio.Task[None]] = set()
        # What is finished whoever stops waiting for it; of models that are to be remembered, what does so.
        self._writes: set[asyncio.Task[None]] = set()
        self._remembering: dict[ModelKey, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()
        self._budget = MemoryBudget(settings.memory_budget, settings.workers, self._registry, pool.put_out, metrics)
        pool.before_load = self._budget.keep
        self._watch = Watch(settings.watch, settings, pool, self._budget.used) if settings.watch else None
        if self._watch is not None:
            self._watch.begin()
        for alias, config in at_the_start.aliases.items():
            self._registry.hold(alias, config, at_the_start.contents.get(alias))
        for name in at_the_start.at_run_time & at_the_start.contents.keys():
            self._registry.expect(name, at_the_start.contents[name])

    def start(self) -> None:
        """Begin to keep to the memory budget, and to watch the folder."""
        if self._watch is not None:
            self._spawn(self._watch.run(), self._tasks)
        if self._settings.memory_budget is not None:
            self._spawn(self._keep_to_budget(), self._tasks)

    async def _keep_to_budget(self) -> None:
        while not self._pool.lifecycle.over:
            self._budget.keep()
            await self._pool.changed()

    def used(self, key: ModelKey) -> None:
        """Note that somebody asks for a version."""
        self._budget.used(key)

    def make_room(self, name: str | None, label: str | None) -> None:
        """Put out what is not needed for the longest, for a model that is about to be loaded again."""
        self._budget.keep(self._pool.status(name, label).known)

    async def stop(self) -> None:
        """End what runs beside the requests; models that have proved to be some are still remembered."""
        for task in list(self._tasks):
            task.cancel()
        self._pool.end()
        await asyncio.gather(*self._tasks, *self._writes, return_exceptions=True)

    @property
    def is_on(self) -> bool:
        """Whether models may be changed."""
        return self._settings.management

    def check(self) -> None:
        """Raise where nothing may be changed.

        Raises:
            ManagementOff: the settings say so.
        """
        if not self._settings.management:
            raise ManagementOff(
                "Models are not changed over HTTP here. Whoever runs this service can allow it by the setting "
                "management."
            )

    # -- changes ------------------------------------------------------------------------------------------------------

    async def put(self, config: ModelConfig) -> ModelKey:
        """Load a model that somebody names over HTTP, or a version that replaces the present one once it is ready.

        Raises:
            ManagementOff, PathNotAllowed, SourceNotAllowed: it may not be loaded.
            ModelBusy: another version of it is being loaded.
            NameTaken: an alias is called so.
        """
        self.check()
        return self._load(await self._permitted(config), lasting=True)

    async def reload(self, name: str, layer: str | None = None) -> ModelKey:
        """Load what a model is configured as once more, because its file has changed; with another default layer.

        Raises:
            ManagementOff, PathNotAllowed, SourceNotAllowed, UnknownModel, ModelBusy: it cannot be.
            NameTaken: it is an alias, which keeps its version.
            UnknownLayer, LayerNotExplainable: it has no such layer.
        """
        self.check()
        config = self._registry.find(name).config
        if not self._registry.has(name):
            raise NameTaken(
                f"{name!r} is an alias of model {config.name!r}, and keeps its version. Reload {config.name!r}, or "
                "point the alias to another version."
            )
        if layer is not None:
            known = self._pool.status(name).known
            layer = layer if known is None else known.layer(layer).name
            config = config.model_copy(update={"layer": layer})
        lasting = config.name in self._at_run_time
        if lasting:
            config = await self._permitted(config)  # a link may lead elsewhere by now
            self._registry.find(name)  # it may have been removed meanwhile
        return self._load(config, lasting=lasting)

    async def _permitted(self, config: ModelConfig) -> ModelConfig:
        """Look in a thread at what a configuration names: that may be thousands of files."""
        return await asyncio.to_thread(permitted, config, self._settings)

    def _load(self, config: ModelConfig, *, lasting: bool) -> ModelKey:
        self._check_idle(config.name)
        key = self._pool.load(config)
        self._budget.used(key)
        if lasting:
            self._remembering[key] = self._spawn(self._remember(key), self._writes)
        return key

    async def remove(self, name: str) -> None:
        """Remove a model, and wait until what has begun with it is finished and workers have dropped it.

        Raises:
            ManagementOff, UnknownModel: it cannot be.
            DefaultModel: it is the default one.
        """
        self.check()
        if self._registry.has(name) and self._pool.status().config.name == name:
            raise DefaultModel(
                f"{name!r} is the default model, to which requests go that name none. Replace it, or make another "
                "model the first one in the settings."
            )
        going = [version.key for version in self._registry.versions(name)]
        self._pool.remove(name)
        self._at_run_time.discard(name)
        await self._write()
        await self._gone(going, name)

    async def unload(self, name: str) -> None:
        """Have workers drop a model until somebody asks for it, and wait until they have; what has begun is finished.

        Raises:
            ManagementOff, UnknownModel: it cannot be.
            ModelBusy: another version of it is being loaded.
        """
        self.check()
        version = self._registry.find(name)
        self._check_idle(version.key.name)
        if version.state != "ready":
            return
        self._metrics.models_put_out.labels("asked").inc()
        self._pool.put_out(version.key)
        await self._gone([version.key], name)

    async def point(self, alias: str, model: str, version: str) -> None:
        """Have an alias point to a version of a model, which stays for as long as it does.

        Raises:
            ManagementOff, UnknownModel, UnknownVersion, NameTaken: it cannot.
        """
        self.check()
        self._registry.point(alias, model, version)
        await self._write()

    async def unpoint(self, alias: str) -> None:
        """Remove an alias.

        Raises:
            ManagementOff, UnknownAlias: it cannot be.
        """
        self.check()
        self._registry.unpoint(alias)
        await self._write()

    async def _gone(self, keys: list[ModelKey], name: str) -> None:
        """Wait until no worker holds these versions any more, for as long as a request may take."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                await self._pool.until(lambda: all(self._registry.version(key) is None for key in keys))
        except TimeoutError:
            log.warning("requests that began with model %s still run; it is dropped when they end", name)

    def _check_idle(self, name: str) -> None:
        if self._registry.is_loading(name):
            raise ModelBusy(
                f"A version of model {name!r} is being loaded. Wait until it is ready, which GET tells, or has failed."
            )

    async def outcome(self, key: ModelKey, wait_s: float) -> bool:
        """Wait for a version that was put or reloaded; return whether it has taken over.

        Raises:
            ModelLoadError: it cannot be loaded; the version before it, if one answered, goes on.
            ModelSuperseded: somebody removed or replaced it meanwhile.
            NotReady: the service is shutting down.
        """
        try:
            async with asyncio.timeout(wait_s):
                await self._pool.until(lambda: self._registry.settled(key))
                if key in self._remembering:
                    await asyncio.shield(self._remembering[key])
        except TimeoutError:
            return False
        if self._pool.lifecycle.over:
            raise NotReady("The service is shutting down.", retry_after_s=5)
        version = self._registry.version(key)
        if version is None or version.state == "draining":
            log.info("model %s was removed or replaced while somebody waited for it to be loaded", key.name)
            raise ModelSuperseded(
                f"Model {key.name!r} was removed, or replaced by another version, while this request waited for it. "
                "Look at what is there now, and ask once more if it is not what you want."
            )
        if version.state == "failed":
            raise ModelLoadError(self._failure(version))
        return True

    def _failure(self, version: VersionStatus) -> str:
        others = self._registry.versions(version.key.name)
        is_answered = any(each.current and each.state == "ready" for each in others if each.key != version.key)
        return f"{version.reason} The version before it goes on answering." if is_answered else str(version.reason)

    # -- what is remembered -------------------------------------------------------------------------------------------

    async def _remember(self, key: ModelKey) -> None:
        """Remember a model once it has proved to be one."""
        try:
            await self._pool.until(lambda: self._registry.settled(key))
            version = self._registry.version(key)
            if self._registry.settled(key) and version is not None and version.state == "ready":
                self._at_run_time.add(key.name)
                await self._write_now()
        finally:
            del self._remembering[key]

    async def _write(self) -> None:
        """Write down what is to be remembered; a caller who is cancelled does not cut it off."""
        await asyncio.shield(self._spawn(self._write_now(), self._writes))

    async def _write_now(self) -> None:
        folder = self._settings.data_dir
        if folder is None:
            return
        async with self._writing:
            models = [self._registry.find(name).config for name in sorted(self._at_run_time)]
            aliases = {alias: self._registry.find(alias).config for alias in self._registry.aliases()}
            names = [*self._at_run_time, *aliases]
            contents = {name: content for name in names if (content := self._registry.content(name))}
            try:
                await asyncio.to_thread(remembered.write, folder, models, aliases, contents)
            except OSError as error:
                log.error("models made at run time cannot be remembered in %s: %s", folder, error)

    def _spawn(self, work: Coroutine[None, None, None], tasks: set[asyncio.Task[None]]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task
