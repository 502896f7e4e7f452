"""Which pictures are computed together, and when: pulled batches from lanes. Knows neither torch, models nor asyncio.

A worker that is free pulls the lane whose head has waited longest, and takes as many of it as may go together. Nothing
waits for a timer: a lone request leaves at once, and while a batch computes the next one gathers by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Batchable", "Batcher"]


class Batchable(Protocol):
    """What the batcher has to know of a job."""

    @property
    def lane(self) -> Hashable:
        """Jobs of the same lane can share a batch."""

    @property
    def pixels_count(self) -> int:
        """Model-input pixels: the cost."""

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch: it is slow, or was in a batch that took a worker down."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more, or its deadline has passed."""


J = TypeVar("J", bound=Batchable)


class Batcher(Generic[J]):
    """Jobs in lanes, in order of arrival. Not thread-safe: one event loop owns it.

    Args:
        max_batch_size: jobs in a batch at most.
        max_batch_pixels: sum of their ``pixels_count`` at most; a job that exceeds it by itself goes alone.
    """

    def __init__(self, max_batch_size: int, max_batch_pixels: int) -> None:
        self._max_size = max_batch_size
        self._max_pixels = max_batch_pixels
        self._arrivals = 0
        # Lane → arrival number → job; dicts keep the order of insertion and take a withdrawal in O(1).
        self._lanes: dict[Hashable, dict[int, J]] = {}
        self._places: dict[int, tuple[Hashable, int]] = {}
        self._caps: dict[Hashable, int] = {}

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._places)

    def submit(self, job: J) -> None:
        """Put ``job`` at the end of its lane."""
        self._arrivals += 1
        self._lanes.setdefault(job.lane, {})[self._arrivals] = job
        self._places[id(job)] = (job.lane, self._arrivals)

    def resubmit(self, job: J) -> None:
        """Put ``job`` in front of everything that waits: it has waited longest already."""
        lane = self._lanes.pop(job.lane, {})
        first = min((next(iter(jobs)) for jobs in (*self._lanes.values(), lane) if jobs), default=1) - 1
        self._lanes[job.lane] = {first: job, **lane}
        self._places[id(job)] = (job.lane, first)

    def withdraw(self, job: J) -> bool:
        """Take ``job`` out if it still waits; return whether it did."""
        place = self._places.pop(id(job), None)
        if place is None:
            return False
        lane, arrival = place
        del self._lanes[lane][arrival]
        if not self._lanes[lane]:
            del self._lanes[lane]
        return True

    def cap(self, lane: Hashable, size: int) -> None:
        """Remember that no more than ``size`` jobs of ``lane`` fit on the device at once."""
        self._caps[lane] = max(1, min(size, self._caps.get(lane, size)))

    def next_batch(self, accepts: Callable[[Any], bool]) -> list[J]:
        """Take the next batch out, for a worker that ``accepts`` only some lanes.

        Abandoned jobs are dropped on the way: they never reach a device.

        Returns:
            Jobs of one lane in order of arrival; empty if nothing waits that the worker accepts.
        """
        while True:
            lane = min(filter(accepts, self._lanes), key=self._oldest, default=None)
            if lane is None:
                return []
            batch = self._take(lane)
            if batch:
                return batch

    def _oldest(self, lane: Hashable) -> int:
        return next(iter(self._lanes[lane]))

    def _take(self, lane: Hashable) -> list[J]:
        batch: list[J] = []
        pixels = 0
        size = min(self._max_size, self._caps.get(lane, self._max_size))
        for job in list(self._lanes[lane].values()):
            if job.abandoned:
                self.withdraw(job)
                continue
            pixels += job.pixels_count
            if batch and (len(batch) == size or pixels > self._max_pixels or job.alone or batch[0].alone):
                break
            self.withdraw(job)
            batch.append(job)
        return batch
