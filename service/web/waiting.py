"""Connections that wait for a request, and which of them goes first where there are too many."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.web.connection import Connection

__all__ = ["Waiting"]


class Waiting:
    """The waiting connections of a server, those that have waited longest first. Nothing here looks at all of them.

    Two queues: ``heads`` are connections of which not even the head of a first or next request has come, ``idle`` are
    those that had an answer and have sent nothing since.
    """

    def __init__(self) -> None:
        self._heads: OrderedDict[Connection, float] = OrderedDict()
        self._idle: OrderedDict[Connection, float] = OrderedDict()

    def for_head(self, connection: Connection, now: float) -> None:
        """Note that a connection waits for the head of a request, or for the rest of one."""
        self.leave(connection)
        self._heads[connection] = now

    def for_next(self, connection: Connection, now: float) -> None:
        """Note that a connection had its answer and waits for whatever comes."""
        self.leave(connection)
        self._idle[connection] = now

    def leave(self, connection: Connection) -> None:
        """Note that a connection waits no more."""
        self._heads.pop(connection, None)
        self._idle.pop(connection, None)

    def pop_late(self, before: float) -> Connection | None:
        """Take out the connection that has waited longest for a head, if it began to before the time given."""
        oldest = next(iter(self._heads.items()), None)
        return self._heads.popitem(last=False)[0] if oldest is not None and oldest[1] < before else None

    def pop_idle(self) -> Connection | None:
        """Take out the connection that has been idle longest."""
        return self._idle.popitem(last=False)[0] if self._idle else None
