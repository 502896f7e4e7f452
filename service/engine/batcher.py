"""Which pictures are computed together, and when: pulled batches from lanes, shared fairly between clients and models.

Knows neither torch, models nor asyncio.

A worker that is free pulls: from the model that has had least, from the lane in which the client that has had least for
its weight has waited longest, as many entries as may go together. Nothing waits for a timer: a lone request leaves at
once, and while a batch computes the next one gathers by itself.

Runs in the front process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from service.engine.fair_shares import FairShares

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

__all__ = ["Batchable", "Batcher", "SharedLane"]


class SharedLane(Protocol):
    """What the batcher has to know of a lane; hashable."""

    @property
    def model(self) -> Hashable:
        """Models get equal shares."""

    @property
    def large(self) -> bool:
        """Whether its entries are large: they have places of their own, and so do not compete with small ones."""

    def __hash__(self) -> int:
        """Equal lanes are one."""


class Batchable(Protocol):
    """What the batcher has to know of an entry."""

    @property
    def lane(self) -> SharedLane:
        """Entries of the same lane can share a batch."""

    @property
    def client(self) -> str:
        """Whose it is. Clients get shares in proportion to their weights."""

    @property
    def weight(self) -> float:
        """Of the client; above 0."""

    @property
    def amount(self) -> float:
        """Estimated work, in forward passes of its model; above 0."""

    @property
    def pixels_count(self) -> int:
        """Model-input pixels, which take memory."""

    @property
    def alone(self) -> bool:
        """Whether it must not share a batch."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more, or its deadline has passed."""


E = TypeVar("E", bound=Batchable)

_BATCHES_BEFORE_MORE = 32

# What did not fit is known of so many lanes: callers make lanes, with sentences of theirs.
_LANES_KNOWN = 1000

# How much of ``max_batch_s`` a batch may take where several clients want the model, or did so a few batches ago.
_SHARED = 0.6
_LATELY = 16

# Where one client has a slow model to itself: how often the time of a single picture a batch may take, up to so many
# pictures for each thread. On a CPU they go together in half the time that they take one by one, and more gain nothing.
_TIMES_ONE, _FOR_EACH = 4.5, 4

# From so many pictures on for each thread a batch is computed in parts, one for each: see models/side_by_side.py.
_IN_PARTS = 2

# How far a batch that was slower than those before moves what is known of a model's pace. One that was faster is
# believed at once: whatever else the machine does can only slow it down.
_SLOWER = 0.25


@dataclass
class _Cap:
    """How many entries of a lane are tried at once, and how many batches of that size have fitted since."""

    size: int
    fitted: int = 0


@dataclass
class _Group(Generic[E]):
    """All that waits for one model, large or small: lane → client → arrival number → entry.

    Dicts keep the order of insertion and take a withdrawal in O(1).
    """

    clients: FairShares[str] = field(default_factory=FairShares)
    lanes: dict[Any, dict[str, dict[int, E]]] = field(default_factory=dict)

    def heads(self, lane: Any) -> Iterator[tuple[tuple[float, bool], int, str]]:
        """Yield each client's rank, with the arrival number of its first entry in ``lane``."""
        for client, entries in self.lanes[lane].items():
            yield self.clients.rank(client), next(iter(entries)), client

    def put(self, arrival: int, entry: E) -> None:
        self.lanes.setdefault(entry.lane, {}).setdefault(entry.client, {})[arrival] = entry
        self.clients.join(entry.client, entry.weight)

    def remove(self, arrival: int, entry: E) -> None:
        lane = self.lanes[entry.lane]
        del lane[entry.client][arrival]
        if not lane[entry.client]:
            del lane[entry.client]
        if not lane:
            del self.lanes[entry.lane]
        self.clients.leave(entry.client)


class Batcher(Generic[E]):
    """Entries in lanes. Not thread-safe: one event loop owns it.

    Args:
        max_batch_size: entries in a batch at most, and sum of the whole passes in their ``amount``.
        max_batch_pixels: sum of their ``pixels_count`` at most.
        max_batch_s: estimated seconds that a batch takes at most, once the model's pace is known, where one client has
            the model to itself, or some times as long as a picture takes alone; a share of it where there are more
            clients, since whoever comes next waits for it.

    An entry that exceeds a bound by itself goes alone.
    """

    def __init__(self, max_batch_size: int, max_batch_pixels: int, max_batch_s: float = float("inf")) -> None:
        self._max_size = max_batch_size
        self._max_pixels = max_batch_pixels
        self._max_seconds = max_batch_s
        self._arrivals = 0
        self._again: list[E] = []
        self._groups: dict[tuple[bool, Hashable], _Group[E]] = {}
        self._models = {large: FairShares[Any]() for large in (False, True)}
        self._arrived: dict[int, int] = {}
        self._caps: dict[Any, _Cap] = {}
        self._pass_s: dict[Hashable, float] = {}
        self._one_s: dict[Hashable, float] = {}
        self._served: dict[tuple[bool, Hashable], deque[frozenset[str]]] = {}

    def __len__(self) -> int:
        """Return how many entries wait."""
        return len(self._arrived) + len(self._again)

    def submit(self, entry: E) -> None:
        """Put ``entry`` behind what its client has in its lane."""
        self._arrivals += 1
        self._arrived[id(entry)] = self._arrivals
        lane = entry.lane
        self._groups.setdefault((lane.large, lane.model), _Group()).put(self._arrivals, entry)
        self._models[lane.large].join(lane.model)

    def resubmit(self, entry: E) -> None:
        """Put ``entry`` in front of everything that waits: it has had its turn already. It goes alone."""
        self._again.insert(0, entry)

    def withdraw(self, entry: E) -> bool:
        """Take ``entry`` out if it still waits; return whether it did."""
        if entry in self._again:
            self._again.remove(entry)
            return True
        arrival = self._arrived.pop(id(entry), None)
        if arrival is None:
            return False
        key = entry.lane.large, entry.lane.model
        self._groups[key].remove(arrival, entry)
        if not self._groups[key].lanes:
            del self._groups[key]
        self._models[entry.lane.large].leave(entry.lane.model)
        return True

    def learn(self, lane: SharedLane, size: int, fits: int | None) -> None:
        """Learn from a batch of ``size`` entries that has run: how many fit on the device at once.

        A batch that did not fit bounds those that follow. Whatever else took the memory may be gone later: after
        ``_BATCHES_BEFORE_MORE`` batches as large as allowed that did fit, twice as many are tried.

        Args:
            lane: where the batch came from.
            size: entries in the batch.
            fits: the largest number of its entries that there was memory for, where there was not for all; else None.
        """
        if fits is not None:
            self._caps.pop(lane, None)
            self._caps[lane] = _Cap(max(1, fits))
            if len(self._caps) > _LANES_KNOWN:
                del self._caps[next(iter(self._caps))]
        elif (cap := self._caps.get(lane)) and size >= cap.size:
            cap.fitted += 1
            if cap.fitted == _BATCHES_BEFORE_MORE:
                self._caps[lane] = _Cap(2 * cap.size)
                if 2 * cap.size >= self._max_size:
                    del self._caps[lane]

    def learn_pace(self, lane: SharedLane, size: int, passes: float, seconds: float) -> None:
        """Learn how long a model takes: ``size`` entries of so many ``passes`` had it to themselves for ``seconds``."""
        for paces in (self._pass_s, self._one_s) if size == 1 else (self._pass_s,):
            found = seconds / passes
            known = paces.get(lane.model, found)
            paces[lane.model] = min(found, known + _SLOWER * (found - known))

    def forget(self, gone: Callable[[Any], bool]) -> None:
        """Forget what was learned of models that are ``gone``."""
        self._caps = {lane: cap for lane, cap in self._caps.items() if not gone(lane.model)}
        self._pass_s = {model: pace for model, pace in self._pass_s.items() if not gone(model)}
        self._one_s = {model: pace for model, pace in self._one_s.items() if not gone(model)}
        self._served = {key: batches for key, batches in self._served.items() if not gone(key[1])}

    def next_batch(self, accepts: Callable[[Any], bool], threads: int = 0) -> list[E]:
        """Take the next batch out, for a worker that ``accepts`` only some lanes.

        Abandoned entries are dropped on the way: they never reach a device.

        Args:
            accepts: tells of a lane.
            threads: of a worker that computes on the CPU, among which it divides a batch; 0 of any other.

        Returns:
            Entries of one lane, each client's in order of arrival; empty if nothing waits that the worker accepts.
        """
        for entry in [entry for entry in self._again if entry.abandoned or accepts(entry.lane)]:
            self._again.remove(entry)
            if not entry.abandoned:
                return [entry]
        while (lane := self._next_lane(accepts)) is not None:
            if batch := self._take(lane, threads):
                return batch
        return []

    def _next_lane(self, accepts: Callable[[Any], bool]) -> SharedLane | None:
        """Small ones first, as they have places of their own; then whoever has had least, then who waits longest."""
        heads = (
            (large, self._models[large].rank(model), rank, arrival, lane)
            for (large, model), group in self._groups.items()
            for lane in group.lanes
            if accepts(lane)
            for rank, arrival, _client in group.heads(lane)
        )
        first = min(heads, key=lambda head: head[:4], default=None)
        return None if first is None else first[-1]

    def _take(self, lane: SharedLane, threads: int) -> list[E]:
        """Take entries out in the order of their clients' start tags, which move on with each."""
        group, models = self._groups[lane.large, lane.model], self._models[lane.large]
        batch: list[E] = []
        pixels = passes = 0
        heads = list(group.heads(lane))
        heapify(heads)
        is_full = partial(self._is_full, lane, threads, self._most_passes(lane, threads))
        while heads:
            _, arrival, client = heappop(heads)
            entry = group.lanes[lane][client][arrival]
            if not entry.abandoned:
                pixels, passes = pixels + entry.pixels_count, passes + int(entry.amount)
                if batch and (entry.alone or batch[0].alone or is_full(len(batch), passes, pixels)):
                    break
                if not batch:
                    models.begin_turn(lane.model)
                    group.clients.begin_turn(client)
                models.charge(lane.model, entry.amount)
                group.clients.charge(client, entry.amount)
                batch.append(entry)
            self.withdraw(entry)
            if following := group.lanes.get(lane, {}).get(client):
                heappush(heads, (group.clients.rank(client), next(iter(following)), client))
        if batch:
            served = self._served.setdefault((lane.large, lane.model), deque(maxlen=_LATELY))
            served.append(frozenset(entry.client for entry in batch))
        return batch

    def _most_passes(self, lane: SharedLane, threads: int) -> float:
        """Return how many passes the next batch of a lane has time for."""
        pass_s = self._pass_s.get(lane.model, 0.0)
        if not pass_s:
            return self._max_size
        if self._is_shared(lane):
            return _SHARED * self._max_seconds / pass_s
        together = _TIMES_ONE * self._one_s.get(lane.model, 0.0) / pass_s
        return max(self._max_seconds / pass_s, min(together, _FOR_EACH * threads if threads else inf))

    def _is_shared(self, lane: SharedLane) -> bool:
        """Whether several clients want the model, or did lately."""
        key = lane.large, lane.model
        group, lately = self._groups[key], self._served.get(key, ())
        return len(group.clients) > 1 or any(clients != group.lanes[lane].keys() for clients in lately)

    def _is_full(self, lane: SharedLane, threads: int, most_passes: float, size: int, passes: int, pixels: int) -> bool:
        """Whether a batch of ``size`` has no room for one that would make it so many passes and pixels."""
        cap = self._caps.get(lane)
        in_time = most_passes * (size + 1) / max(1, passes)
        if in_time >= _IN_PARTS * threads > 0:
            in_time = in_time // threads * threads  # a thread with one less would wait for the others
        return (
            size >= self._max_size
            or passes > self._max_size
            or pixels > self._max_pixels
            or size + 1 > in_time
            or (cap is not None and size >= cap.size)
        )
