"""Which pictures are computed together, and when: pulled batches from lanes.

Knows neither torch, models nor asyncio.

A worker that is free pulls the lane whose head has waited longest, and takes as many of it as may go together. Nothing
waits for a timer: a lone request leaves at once, and while a batch computes the next one gathers by itself.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

__all__ = ["Batchable", "Batcher"]


class Batchable(Protocol):
    """What the batcher has to know of an entry."""

    @property
    def lane(self) -> Hashable:
        """Entries of the same lane can share a batch."""

    @property
    def pixels_count(self) -> int:
        """Model-input pixels: the cost."""

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch: it is slow, or was in a batch that took a worker down."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more, or its deadline has passed."""


E = TypeVar("E", bound=Batchable)

_BATCHES_BEFORE_MORE = 32


@dataclass
class _Cap:
    """How many entries of a lane are tried at once, and how many batches of that size have fitted since."""

    size: int
    fitted: int = 0


class Batcher(Generic[E]):
    """Entries in lanes, in order of arrival. Not thread-safe: one event loop owns it.

    Args:
        max_batch_size: entries in a batch at most.
        max_batch_pixels: sum of their ``pixels_count`` at most; an entry that exceeds it by itself goes alone.
    """

    def __init__(self, max_batch_size: int, max_batch_pixels: int) -> None:
        self._max_size = max_batch_size
        self._max_pixels = max_batch_pixels
        self._arrivals = 0
        # Lane → arrival number → entry; dicts keep the order of insertion and take a withdrawal in O(1).
        self._lanes: dict[Hashable, dict[int, E]] = {}
        self._places: dict[int, tuple[Hashable, int]] = {}
        self._caps: dict[Hashable, _Cap] = {}

    def __len__(self) -> int:
        """Return how many entries wait."""
        return len(self._places)

    def submit(self, entry: E) -> None:
        """Put ``entry`` at the end of its lane."""
        self._arrivals += 1
        self._lanes.setdefault(entry.lane, {})[self._arrivals] = entry
        self._places[id(entry)] = (entry.lane, self._arrivals)

    def resubmit(self, entry: E) -> None:
        """Put ``entry`` in front of everything that waits: it has waited longest already."""
        lane = self._lanes.pop(entry.lane, {})
        first = min((next(iter(entries)) for entries in (*self._lanes.values(), lane) if entries), default=1) - 1
        self._lanes[entry.lane] = {first: entry, **lane}
        self._places[id(entry)] = (entry.lane, first)

    def withdraw(self, entry: E) -> bool:
        """Take ``entry`` out if it still waits; return whether it did."""
        place = self._places.pop(id(entry), None)
        if place is None:
            return False
        lane, arrival = place
        del self._lanes[lane][arrival]
        if not self._lanes[lane]:
            del self._lanes[lane]
        return True

    def learn(self, lane: Hashable, size: int, fits: int | None) -> None:
        """Learn from a batch of ``size`` entries that has run: how many fit on the device at once.

        A batch that did not fit bounds those that follow. Whatever else took the memory may be gone later: after
        ``_BATCHES_BEFORE_MORE`` batches as large as allowed that did fit, twice as many are tried.

        Args:
            lane: where the batch came from.
            size: entries in the batch.
            fits: the largest number of its entries that there was memory for, where there was not for all; else None.
        """
        if fits is not None:
            self._caps[lane] = _Cap(max(1, fits))
        elif (cap := self._caps.get(lane)) and size >= cap.size:
            cap.fitted += 1
            if cap.fitted == _BATCHES_BEFORE_MORE:
                self._caps[lane] = _Cap(2 * cap.size)
                if 2 * cap.size >= self._max_size:
                    del self._caps[lane]

    def forget(self, gone: Callable[[Any], bool]) -> None:
        """Forget what was learned of lanes that are ``gone``."""
        self._caps = {lane: cap for lane, cap in self._caps.items() if not gone(lane)}

    def next_batch(self, accepts: Callable[[Any], bool]) -> list[E]:
        """Take the next batch out, for a worker that ``accepts`` only some lanes.

        Abandoned entries are dropped on the way: they never reach a device.

        Returns:
            Entries of one lane in order of arrival; empty if nothing waits that the worker accepts.
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

    def _take(self, lane: Hashable) -> list[E]:
        batch: list[E] = []
        pixels = 0
        size = min(self._max_size, self._caps[lane].size) if lane in self._caps else self._max_size
        for entry in list(self._lanes[lane].values()):
            if entry.abandoned:
                self.withdraw(entry)
                continue
            pixels += entry.pixels_count
            if batch and (len(batch) == size or pixels > self._max_pixels or entry.alone or batch[0].alone):
                break
            self.withdraw(entry)
            batch.append(entry)
        return batch
