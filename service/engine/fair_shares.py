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
    so that flows which always have something waiting get amounts in proportion to their weights.

    Virtual time is at least the start tag of the latest turn (Goyal, Vin and Cheng, Start-time Fair Queueing, 1996),
    and once that turn is over at least its amount shared among all that waited. By the latter, newcomers without end
    starve nobody, and a flow with neither debt nor anything waiting is soon forgotten. When nobody waits, all are.

    Those that always wait are behind virtual time by up to what a turn moves a tag, and by no more: what others had who
    came and went is forgotten when their own turn comes. A flow that begins to wait keeps its debt, and starts behind
    virtual time by up to two such turns: before all that had their turns, unless so many newcomers were before them.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._turn = 0.0  # by how much virtual time moves on at least, once the latest turn is over
        self._charged = 0.0  # by how much tags moved on in the latest turn
        self._most = 0.0  # and in the turn that moved them on most
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
            self._shares[flow] = _Share(self._newcomers_tag(), weight)
            return
        if not share.waiting:
            share.tag = max(share.tag, self._newcomers_tag())
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
            self._now = self._turn = self._charged = self._most = 0.0
        elif not share.waiting and share.tag <= self._newcomers_tag():
            del self._shares[flow]  # it would come back with no greater tag

    def begin_turn(self, flow: Flow) -> None:
        """Begin a turn of ``flow``, which waits."""
        share = self._shares[flow]
        self._now = max(self._now + self._turn, share.tag)
        share.tag = max(share.tag, self._now - self._most)
        self._turn = self._charged = 0.0
        even = self._newcomers_tag()
        for each in [each for each, other in self._shares.items() if not other.waiting and other.tag <= even]:
            del self._shares[each]

    def charge(self, flow: Flow, amount: float) -> None:
        """Charge ``flow``, which waits, for what it gets in the present turn."""
        share = self._shares[flow]
        share.tag += amount / share.weight
        share.served = True
        self._charged += amount / share.weight
        self._most = max(self._most, self._charged)
        self._turn += amount / sum(share.weight for share in self._shares.values() if share.waiting)

    def _newcomers_tag(self) -> float:
        """Return the least tag of those that wait, unless that is more than two turns behind virtual time."""
        least = min((share.tag for share in self._shares.values() if share.waiting), default=self._now)
        return min(self._now, max(least, self._now - 2 * self._most))
