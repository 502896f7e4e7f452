"""How much memory models may take, and which are put out where it is not enough.

Runs in the front process.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.engine.registry import Registry
    from service.metrics import Metrics
    from service.models.info import ModelInfo, ModelKey

__all__ = ["MemoryBudget"]

log = logging.getLogger("camserve.models")


class MemoryBudget:
    """Puts the least recently used models out, beyond what all may take on a device.

    Of models that nobody has asked for yet, the first in the settings stay. What is being loaded or has requests
    inside is left alone, so that for a while there may be more.

    Args:
        limit: bytes that all models may take on a device; no bound if None.
        copies: how many workers of a device hold each model.
        registry: says what there is.
        put_out: has workers drop a version.
        metrics: counts what is put out.
    """

    def __init__(
        self,
        limit: int | None,
        copies: int,
        registry: Registry,
        put_out: Callable[[ModelKey], None],
        metrics: Metrics,
    ) -> None:
        self._limit, self._copies = limit, copies
        self._registry = registry
        self._put_out = put_out
        self._metrics = metrics
        self._clock = itertools.count(1)
        self._used: dict[ModelKey, int] = {}

    def used(self, key: ModelKey) -> None:
        """Note that somebody asks for a version."""
        if self._limit is not None:
            self._used[key] = next(self._clock)

    def keep(self, coming: ModelInfo | None = None) -> None:
        """Put out what is too much, with room for a model that is about to be loaded."""
        if self._limit is None:
            return
        self._used = {key: when for key, when in self._used.items() if self._registry.version(key)}
        totals = Counter({coming.device: self.size(coming)} if coming else {})
        held = self._registry.held()
        for version in held.values():
            totals.update(dict.fromkeys(version.devices, self.size(version.info)))
        idle = [key for key, version in held.items() if version.idle]
        for key in sorted(idle, key=lambda key: (self._used.get(key, 0), -key.revision)):
            size, devices = self.size(held[key].info), held[key].devices
            if all(totals[device] <= self._limit for device in devices):
                continue
            totals.subtract(dict.fromkeys(devices, size))
            log.info("model %s is put out: its %d bytes are needed", key.name, size)
            self._metrics.models_put_out.labels("budget").inc()
            self._put_out(key)

    def size(self, info: ModelInfo) -> int:
        """Return what a model takes on a device, in bytes, as its workers found when they loaded it."""
        return info.memory * self._copies
