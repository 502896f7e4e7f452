"""An entry: one image with its targets, and the future that its answer goes to.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.logs import request_id

if TYPE_CHECKING:
    import asyncio

    import numpy as np
    from numpy.typing import NDArray
    from opentelemetry.trace import Span, SpanContext

    from service.cam.targets import Targets
    from service.engine.messages import Lane, RowAnswer
    from service.errors import ServiceError
    from service.verification.region import View

__all__ = ["Computed", "Entry"]


@dataclass(frozen=True)
class Computed:
    """What an entry's future resolves to: the worker's answer, and how long it waited and ran, in seconds."""

    answer: RowAnswer
    queue_s: float
    compute_s: float
    batch_size: int


@dataclass(eq=False)
class Entry:
    """One image on its way to a worker.

    Attributes:
        lane: what it must share with its batch-mates.
        pixels: (H, W, channels) uint8, the model's input.
        targets: what is asked of it.
        future: resolved once, by whoever is first: the answer, an error, or the caller giving up.
        queued_at: ``time.perf_counter()`` when it began to wait; uvloop's own clock counts whole milliseconds.
        attempts: how many workers died with it.
        span: the image's, for the batch to point at.
        batch: what its batch's span is known by, for the image to point at.
        request_id: whose it is, for the log.
        client: whose share it is taken from.
        weight: of the client's share.
        amount: estimated work, in forward passes of its model.
        view: the part of the model's input that the picture fills; only for those whose maps are put to the proof.
    """

    lane: Lane
    pixels: NDArray[np.uint8]
    targets: Targets
    future: asyncio.Future[Computed]
    queued_at: float
    started_at: float = field(default=0.0)
    attempts: int = 0
    span: Span | None = None
    batch: SpanContext | None = None
    request_id: str = field(default_factory=request_id.get)
    client: str = ""
    weight: float = 1.0
    amount: float = 1.0
    view: View | None = None

    @property
    def pixels_count(self) -> int:
        """Model-input pixels."""
        height, width, _ = self.pixels.shape
        return int(height * width)

    @property
    def alone(self) -> bool:
        """Whether it shares no batch: a large one fills the device, one whose worker died may be the reason."""
        return self.lane.large or self.attempts > 0

    @property
    def abandoned(self) -> bool:
        """Whoever waits for it gave up: the client went away, or the deadline passed."""
        return self.future.done()

    def answer(self, answer: RowAnswer, compute_s: float, batch_size: int) -> None:
        """Resolve the future, unless the caller gave up meanwhile."""
        if not self.future.done():
            self.future.set_result(Computed(answer, self.started_at - self.queued_at, compute_s, batch_size))

    def fail(self, error: ServiceError) -> None:
        """Resolve the future with ``error``, unless the caller gave up meanwhile."""
        if not self.future.done():
            self.future.set_exception(error)
