"""Models are tried in a process of their own before a worker loads them.

Whatever loading does there, whether it ends the process, hangs, or takes all memory, nobody's answer depends on it.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from service.engine.file_marks import files_of
from service.engine.messages import ModelFailed, ModelLoaded, ModelProgress, ModelUnloaded
from service.engine.proven import Proven
from service.models.info import ModelInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.engine.file_marks import Mark
    from service.engine.messages import FromWorker
    from service.engine.worker import Listener, Worker
    from service.models.info import ModelKey
    from service.settings import ModelConfig

    Outcome = ModelInfo | ModelFailed | str  # the last is how the process ended

__all__ = ["TRIAL", "Judge", "Trials"]

log = logging.getLogger("camserve.pool")

TRIAL = -1
"""The number of the process in which models are tried, where workers have theirs."""

# Starting a process takes seconds, most of them to import torch: the next model may come soon.
_LINGER_S = 10.0


class Judge(Protocol):
    """Who hears what became of a trial. Each ends with one of the last three."""

    def on_trial_progress(self, message: ModelProgress) -> None:
        """So much is loaded."""

    def on_tried(self, key: ModelKey, config: ModelConfig, info: ModelInfo) -> None:
        """It can be loaded, and is not held any more."""

    def on_trial_failed(self, key: ModelKey, reason: str) -> None:
        """It cannot be loaded."""

    def on_trial_died(self, key: ModelKey, config: ModelConfig, last_exit: str) -> None:
        """The process has ended while it loaded it."""


class Trials:
    """Tries one model after the other. Lives in one event loop, which alone may call it.

    Args:
        launch: makes the process.
        judge: hears what became of them.
        limit_s: how long a model may take.
    """

    def __init__(self, launch: Callable[[Listener], Worker], judge: Judge, limit_s: float) -> None:
        self._launch = launch
        self._judge = judge
        self._limit_s = limit_s
        self._waiting: dict[ModelKey, ModelConfig] = {}
        self._same_code: set[ModelKey] = set()
        self._proven = Proven()
        # Of what workers load at the start, without a trial: the mark of its files before they did.
        self._at_start: dict[ModelKey, tuple[ModelConfig, Mark]] = {}
        self._now: ModelKey | None = None
        self._info: ModelInfo | None = None
        self._worker: Worker | None = None
        self._outcome: asyncio.Future[Outcome] | None = None
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def spare(self, models: Sequence[tuple[ModelKey, ModelConfig]]) -> None:
        """Prepare for models that workers are to load without a trial: what loads there need not be tried later."""
        for key, config in models:
            self._at_start[key] = config, await asyncio.to_thread(self._proven.mark, config)

    def loaded(self, key: ModelKey, info: ModelInfo) -> None:
        """Take note that a worker has loaded a model."""
        if key in self._at_start:
            self._proven.add(*self._at_start.pop(key), info)

    def doubt(self, config: ModelConfig) -> None:
        """Try a model again, though it was loaded before: it may have ended a worker."""
        self._proven.forget(config)

    def begin(self, key: ModelKey, config: ModelConfig, *, same_code: bool = False) -> None:
        """Try a model, after those that wait, unless it is what was loaded before.

        Args:
            key: of the model.
            config: what it is loaded from.
            same_code: whether a function of the user's is what it was, as where workers have imported it.
        """
        self._waiting[key] = config
        if same_code:
            self._same_code.add(key)
        self._news.set()
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._try_all())

    def forget(self, key: ModelKey) -> None:
        """Try a model no more; its process is ended if it is loading it."""
        self._waiting.pop(key, None)
        if key == self._now:
            self._settle("given up")
            self._kill()

    async def stop(self) -> None:
        """End the process."""
        if self._task is not None:
            self._task.cancel()
        if self._worker is not None:
            await self._worker.stop(timeout_s=1.0)

    # -- one after the other ------------------------------------------------------------------------------------------

    async def _try_all(self) -> None:
        """Try what waits and what comes soon; then end the process. What comes while it ends is tried in another."""
        while self._waiting:
            await self._try_waiting()
            worker, self._worker = self._worker, None
            if worker is not None:
                await worker.stop(timeout_s=1.0)

    async def _try_waiting(self) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                self._news.clear()
                while self._waiting:
                    await self._try_next()
                async with asyncio.timeout(_LINGER_S):
                    await self._news.wait()

    async def _try_next(self) -> None:
        key, config = next(iter(self._waiting.items()))
        self._now, self._info = key, None
        files = await asyncio.to_thread(self._proven.mark, config) if files_of(config) else ()
        known = self._proven.info(config, files, same_code=key in self._same_code)
        outcome = known or await self._try(key, config)
        if isinstance(outcome, ModelInfo):
            self._proven.add(config, files, outcome)
        self._now = None
        self._same_code.discard(key)
        if self._waiting.pop(key, None) is not None:
            self._tell(key, config, outcome)

    async def _try(self, key: ModelKey, config: ModelConfig) -> Outcome:
        """Load a model and drop it; return what was found out, why it failed, or how the process ended."""
        self._outcome = asyncio.get_running_loop().create_future()
        log.info("model %s is tried in a process of its own", key.name)
        try:
            worker = await self._started()
        except OSError as error:  # no process or no descriptor is left on this machine
            return ModelFailed(key, f"No process can be started to try it in: {error}.")
        if key in self._waiting:
            worker.load(key, config)
        else:  # it was forgotten meanwhile
            self._settle("given up")
        try:
            async with asyncio.timeout(self._limit_s):
                return await self._outcome
        except TimeoutError:
            self._kill()
            return ModelFailed(key, f"It was not loaded within {self._limit_s:g} s.")

    async def _started(self) -> Worker:
        if self._worker is None:
            worker = self._launch(self)
            await worker.start()
            self._worker = worker
        return self._worker

    def _tell(self, key: ModelKey, config: ModelConfig, outcome: Outcome) -> None:
        match outcome:
            case str():
                self._judge.on_trial_died(key, config, outcome)
            case ModelFailed(_, reason):
                self._judge.on_trial_failed(key, reason)
            case _:
                self._judge.on_tried(key, config, outcome)

    def _settle(self, outcome: Outcome) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    def _kill(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.kill("exited")

    # -- what the process says ----------------------------------------------------------------------------------------

    def on_message(self, worker: Worker, message: FromWorker) -> None:
        """Take note of what it says of the model that is tried now."""
        match message:
            case ModelProgress(key) if key == self._now:
                self._judge.on_trial_progress(message)
            case ModelFailed(key) if key == self._now:
                self._settle(message)
            case ModelLoaded(key, info) if key == self._now:
                self._info = info
                worker.unload(key)
            case ModelUnloaded(key) if key == self._now and self._info is not None:
                self._settle(self._info)

    def on_exit(self, worker: Worker) -> None:
        """Take note that it has ended."""
        if worker is self._worker:
            self._worker = None
            self._settle(worker.snapshot.last_exit or "it ended")
