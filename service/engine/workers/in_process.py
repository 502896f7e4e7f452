"""A worker in this process: threads that own the models, where a process of its own would buy nothing.

For ``camserve explain FILES`` and whoever embeds the engine: nothing is spawned or pickled. What a process protects
from is not protected from here: a model that crashes takes the caller along, and one that hangs cannot be killed.

Runs in whatever process calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from service.engine.messages import Cancel, Hello, Load, Unload
from service.engine.worker import WorkerSnapshot
from service.engine.workers.executor import DEVICE_LOST, Executor

if TYPE_CHECKING:
    from service.engine.messages import FromWorker, Run, ToWorker
    from service.engine.worker import Listener, WorkerSpec
    from service.metrics import Ending
    from service.models.info import ModelKey
    from service.settings import ModelConfig

__all__ = ["InProcessWorker"]


class InProcessWorker:
    """Implements the port :class:`service.engine.worker.Worker` with an executor in this process."""

    separate = False

    def __init__(self, spec: WorkerSpec, listener: Listener) -> None:
        self._spec = spec
        self._listener = listener
        self._snapshot = WorkerSnapshot(spec.number, spec.start.device)
        self._executor: Executor | None = None

    @property
    def snapshot(self) -> WorkerSnapshot:
        """Its state now."""
        return self._snapshot

    async def start(self) -> None:
        """Make the executor; it says hello from this loop's next turn on."""
        self._loop = asyncio.get_running_loop()
        self._snapshot = replace(self._snapshot, started=True, connected=True)
        self._executor = Executor(self._spec.start, self._tell, self._die)

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        """Load a model in the executor's thread for that."""
        self._say(Load(key, config))

    def unload(self, key: ModelKey) -> None:
        """Drop a model."""
        self._say(Unload(key))

    def send(self, run: Run) -> None:
        """Compute a batch in one of the executor's threads."""
        self._say(run)

    def cancel(self, batch: int) -> None:
        """Stop computing a batch at its next step."""
        self._say(Cancel(batch))

    def kill(self, ending: Ending) -> None:
        """Give it up. What computes in its threads goes on until its next step: threads cannot be killed."""
        self._end(ending, "given up")

    async def stop(self, timeout_s: float) -> None:
        """Begin nothing new; a batch ends at its next step, and is not waited for."""
        del timeout_s
        self._close()

    def _say(self, message: ToWorker) -> None:
        if self._snapshot.connected and self._executor is not None:
            self._executor.hear(message)

    def _tell(self, message: FromWorker) -> None:
        """Pass on what the executor's threads say, in the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._hear, message)

    def _hear(self, message: FromWorker) -> None:
        if not self._snapshot.connected:
            return
        if isinstance(message, Hello):
            self._snapshot = replace(self._snapshot, greeted=True, device=message.device)
        self._listener.on_message(self, message)

    def _die(self, code: int) -> None:
        words = "it lost its device" if code == DEVICE_LOST else "its thread ended"
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, "exited", words)

    def _end(self, ending: Ending, words: str) -> None:
        if self._snapshot.connected:
            self._close()
            self._snapshot = replace(self._snapshot, ending=ending, last_exit=words)
            self._listener.on_exit(self)

    def _close(self) -> None:
        self._snapshot = replace(self._snapshot, connected=False)
        if self._executor is not None:
            self._executor.close()
            self._executor = None  # and with it the models
