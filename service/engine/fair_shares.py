"""Whose turn it is, by how much each had: start-time fair queueing. Knows neither threads nor models.

Runs in the front process.
"""

from __future__ import annotations

__all__ = ["FairShares"]


class FairShares:
    """Stamps pieces of work; begun in the order of their stamps, work is shared by weight between those who have some.

    Goyal, Vin and Cheng, "Start-time Fair Queueing", SIGCOMM 1996 (https://doi.org/10.1145/248156.248171). A piece
    begins where its owner's last one ends, or now if the owner had nothing to do: who was idle has no credit, and who
    asks for much waits behind those who ask for little.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._ends: dict[str, float] = {}

    def __len__(self) -> int:
        """Return how many owners are remembered: those whose work is not all begun."""
        return len(self._ends)

    def stamp(self, owner: str, amount: float, weight: float = 1.0) -> float:
        """Return the stamp of a new piece of ``amount``; the least goes first."""
        start = max(self._now, self._ends.get(owner, 0.0))
        self._ends[owner] = start + amount / weight
        return start

    def begin(self, stamp: float) -> None:
        """Take note that the piece with this stamp was begun."""
        if stamp > self._now:
            self._now = stamp
            self._ends = {owner: end for owner, end in self._ends.items() if end > stamp}
