"""The port of a worker: what the supervisor and the pool may ask of one, wherever it computes.

Implementations: a process of its own (``worker_process``), threads of this one (``workers.in_process``), and the fake
of the tests.

Runs in the front process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.engine.messages import FromWorker, Run, Start
    from service.metrics import Ending
    from service.models.info import ModelKey
    from service.settings import ModelConfig

__all__ = ["Launcher", "Listener", "Worker", "WorkerSnapshot", "WorkerSpec"]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made from.

    Attributes:
        number: its place among the workers; a replacement has that of the worker it replaces.
        start: where and how it computes.
        silence_timeout_s: how long it may be silent before it counts as hung.
    """

    number: int
    start: Start
    silence_timeout_s: float


@dataclass(frozen=True)
class WorkerSnapshot:
    """The state of a worker at one moment.

    Attributes:
        number: its place among the workers.
        device: where it computes; what was asked for until it has said what it took.
        pid: of its process, once there is one; None for a worker in this process.
        started: whether it was started.
        greeted: whether it has said hello.
        connected: whether messages reach it.
        device_bytes: memory of its device, ``allocated`` and ``reserved``, where it has told.
        ending: how it ended, for the metrics; None while it lives.
        last_exit: the same in words: ``exited with code 70``, ``it hung`` …
    """

    number: int
    device: str
    pid: int | None = None
    started: bool = False
    greeted: bool = False
    connected: bool = False
    device_bytes: Mapping[str, int] = field(default_factory=dict)
    ending: Ending | None = None
    last_exit: str | None = None


class Worker(Protocol):
    """Holds models and computes batches on one device. Nobody but the worker itself writes its state."""

    @property
    def separate(self) -> bool:
        """Whether it has a process of its own, so that what ends it ends nobody else."""

    @property
    def snapshot(self) -> WorkerSnapshot:
        """Its state now."""

    async def start(self) -> None:
        """Bring it to life; it says hello when it is ready to load models.

        Raises:
            OSError: the machine has no process or no descriptor left.
        """

    def load(self, key: ModelKey, config: ModelConfig) -> None:
        """Load a model; the answer is ``ModelLoaded`` or ``ModelFailed``. Models are loaded one after the other."""

    def unload(self, key: ModelKey) -> None:
        """Drop a model; the answer is ``ModelUnloaded``."""

    def send(self, run: Run) -> None:
        """Compute a batch; the answer is ``Ran``. If the worker has died, the listener hears of that instead."""

    def cancel(self, batch: int) -> None:
        """Stop computing a batch that nobody waits for any more. It is answered all the same, with errors."""

    def kill(self, ending: Ending) -> None:
        """End it at once; the listener hears ``on_exit``."""

    async def stop(self, timeout_s: float) -> None:
        """End it in good order, within ``timeout_s``; the listener hears nothing any more."""


class Listener(Protocol):
    """Who hears from workers, in the event loop that started them."""

    def on_message(self, worker: Worker, message: FromWorker) -> None:
        """A worker says something."""

    def on_exit(self, worker: Worker) -> None:
        """A worker has ended, without having been told to stop; its snapshot says how. Comes once, and last."""


Launcher = Callable[[WorkerSpec, Listener], Worker]
"""Makes a worker that is not started yet."""
