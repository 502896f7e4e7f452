"""Tells when a worker process hangs.

The watchdog counts ticks without a sign of life rather than seconds: after the front itself was held up, by a debugger
or a busy machine, the worker's signs of life still lie unread, and nobody must be killed for that.

Runs in the front process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.engine.messages import Progress, Ran

if TYPE_CHECKING:
    from service.engine.messages import FromWorker

__all__ = ["Watchdog"]


class Watchdog:
    """Counts ticks since a worker was heard of, and since each of its batches was.

    Args:
        patience: so many ticks of silence are allowed.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._silence = 0
        self._silence_of_batch: dict[int, int] = {}

    def sent(self, batch: int) -> None:
        """A batch was handed to the worker."""
        self._silence_of_batch[batch] = 0

    def heard(self, message: FromWorker) -> None:
        """Any message is a sign of life; of a batch, only its progress and its end are."""
        self._silence = 0
        match message:
            case Progress(batch, _):
                self._silence_of_batch[batch] = 0
            case Ran(batch):
                self._silence_of_batch.pop(batch, None)

    def tick(self) -> str | None:
        """Count one tick.

        Returns:
            What has been silent for too long; None if nothing was.
        """
        self._silence += 1
        self._silence_of_batch = {batch: ticks + 1 for batch, ticks in self._silence_of_batch.items()}
        if self._silence > self._patience:
            return "no sign of life"
        return "no end of a batch" if max(self._silence_of_batch.values(), default=0) > self._patience else None
