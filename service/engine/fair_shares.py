"""Weighted fair queueing: whose turn it is among those that share something, by what each has had for its weight.

Runs in the front process.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["FairShares"]

Flow = TypeVar("Flow", bound=Hashable)


@dataclass
class _Share:
    """What is known of a flow: its start tag, its weight, how many of its own wait, and whether one had its turn."""

    tag: float
    weight: float
    waiting: int = 1
    served: bool = False


class FairShares(Generic[Flow]):
    """Start-time fair queueing between *flows*: clients, or models.

    The *start tag* of a flow is the virtual time at which its next turn begins. A turn moves it on by amount / weight,
    so that flows which always have something waiting get amounts in proportion to their weights. A flow that begins to
    wait starts at the present virtual time: it has no credit from when it had nothing to ask, and keeps its debt.

    Virtual time is at least the start tag of the latest turn (Goyal, Vin and Cheng, Start-time Fair Queueing, 1996),
    and once that turn is over at least its amount shared among all that waited. By the latter, newcomers without end
    starve nobody, and a flow with neither debt nor anything waiting is soon forgotten. When nobody waits, all are.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._turn = 0.0  # by how much virtual time moves on at least, once the latest turn is over
        self._waiting = 0
        self._shares: dict[Flow, _Share] = {}

    def __len__(self) -> int:
        """Return how many flows are remembered."""
        return len(self._shares)

    def rank(self, flow: Flow) -> tuple[float, bool]:
        """Return what a flow that waits is ordered by, the least first: its start tag; of equals, newcomers first."""
        share = self._shares[flow]
        return share.tag, share.served

    def join(self, flow: Flow, weight: float = 1.0) -> None:
        """Note that something of ``flow`` begins to wait."""
        self._waiting += 1
        share = self._shares.get(flow)
        if share is None:
            self._shares[flow] = _Share(self._now, weight)
            return
        if not share.waiting:
            share.tag = max(share.tag, self._now)
            share.served = False
        share.waiting += 1
        share.weight = weight

    def leave(self, flow: Flow) -> None:
        """Note that something of ``flow`` waits no longer, for whatever reason."""
        self._waiting -= 1
        share = self._shares[flow]
        share.waiting -= 1
        if not self._waiting:
            self._shares.clear()
            self._now = self._turn = 0.0
        elif self._is_even(share):
            del self._shares[flow]

    def begin_turn(self, flow: Flow) -> None:
        """Begin a turn of ``flow``, which waits."""
        self._now = max(self._now + self._turn, self._shares[flow].tag)
        self._turn = 0.0
        for each in [each for each, share in self._shares.items() if self._is_even(share)]:
            del self._shares[each]

    def charge(self, flow: Flow, amount: float) -> None:
        """Charge ``flow``, which waits, for what it gets in the present turn."""
        share = self._shares[flow]
        share.tag += amount / share.weight
        share.served = True
        self._turn += amount / sum(share.weight for share in self._shares.values() if share.waiting)

    def _is_even(self, share: _Share) -> bool:
        """Whether forgetting a flow changes nothing: it would come back with the same tag."""
        return not share.waiting and share.tag <= self._now
