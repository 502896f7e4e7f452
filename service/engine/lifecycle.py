"""Whether requests may still come in, from the service's start to its end.

The ASGI lifespan drives it, so that the service drains under any host. Our own server drives the same object earlier,
at SIGTERM, while connections are open.

Runs in the front process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Lifecycle", "State"]

log = logging.getLogger("camserve.lifecycle")

State = Literal["starting", "serving", "draining", "closed", "over"]
_ORDER = get_args(State)


class Lifecycle:
    """How far the service is, and how many requests are inside. Lives in one event loop from one start to the next.

    States follow each other in this order, and none comes back but by :meth:`start`:

    - ``starting``: workers are not started yet.
    - ``serving``: requests are taken.
    - ``draining``: the service was told to stop. Readiness says so; requests are still taken, for ``delay_s``.
    - ``closed``: new requests are refused. Those inside are finished, for ``timeout_s`` at most.
    - ``over``: requests without an answer are refused, too, and the workers end.

    Args:
        delay_s: how long requests are still taken while draining.
        timeout_s: how long requests inside have once it is closed.

    Attributes:
        state: how far it is.
        inside: requests that were taken and are not answered.
    """

    def __init__(self, delay_s: float = 0.0, timeout_s: float = 0.0) -> None:
        self.state: State = "starting"
        self.inside = 0
        self._delay_s, self._timeout_s = delay_s, timeout_s
        self._empty = asyncio.Event()
        self._empty.set()
        self._drained: asyncio.Task[None] | None = None
        self._on_closed: Callable[[], None] = lambda: None

    @property
    def draining(self) -> bool:
        """Whether the service was told to stop."""
        return self._has_reached("draining")

    @property
    def closed(self) -> bool:
        """Whether new requests are refused."""
        return self._has_reached("closed")

    @property
    def over(self) -> bool:
        """Whether requests inside are given up."""
        return self._has_reached("over")

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request as inside, for as long as the block takes."""
        self.inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.inside -= 1
            if not self.inside:
                self._empty.set()

    def start(self) -> None:
        """Take requests; also after an end, for hosts that start an application again, be it in another event loop."""
        if self._drained is not None:
            self._drained.cancel()  # its caller did not wait for it: it would end what starts now
        self.state, self._drained, self._empty = "serving", None, asyncio.Event()
        if not self.inside:
            self._empty.set()

    def when_closed(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called in the same step in which new requests begin to be refused."""
        self._on_closed = callback

    def begin_drain(self) -> None:
        """Say that the service is draining, and change nothing else; safe in a signal handler."""
        self._advance("draining")

    async def drain(self, delay_s: float | None = None) -> None:
        """Drain, close, and wait for the requests inside. A second call waits for the first.

        Args:
            delay_s: how long requests are still taken; as configured if None.
        """
        if self._drained is None:
            self._drained = asyncio.create_task(self._drain(self._delay_s if delay_s is None else delay_s))
        await asyncio.shield(self._drained)

    def end(self) -> None:
        """Give up the requests inside."""
        self._advance("over")

    async def _drain(self, delay_s: float) -> None:
        began = time.monotonic()
        self._advance("draining")
        log.info("draining: requests are taken for %g s more", delay_s)
        await asyncio.sleep(delay_s)
        self._advance("closed")
        self._on_closed()
        await self._settle()
        self._advance("over")
        log.info("drained after %.1f s", time.monotonic() - began)

    async def _settle(self) -> None:
        if not self.inside:
            return
        log.info("%d requests are inside and have %g s", self.inside, self._timeout_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._empty.wait()
        except TimeoutError:
            log.warning("%d requests are cut off after %g s", self.inside, self._timeout_s)

    def _advance(self, state: State) -> None:
        if not self._has_reached(state):
            self.state = state

    def _has_reached(self, state: State) -> bool:
        return _ORDER.index(self.state) >= _ORDER.index(state)
