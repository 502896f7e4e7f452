"""What each version of a model has done since the start: requests, images, batches, and the time that they took.

Runs in the front process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.engine.answers import ImageAnswer

__all__ = ["Tallies", "Tally", "Took"]

_REMEMBERED = 1000


@dataclass
class Took:
    """How often something was done, and the seconds that it took together."""

    count: float = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: float = 1) -> None:
        """Count it once more; an image's part of a batch is less than once."""
        self.count += count
        self.seconds += seconds


@dataclass
class Tally:
    """What one version of a model has done.

    Attributes:
        success: requests that were answered.
        failure: requests that were not.
        decode: of images; and so for the others.
        queue: until their batch began.
        compute: of their batches, each image's being the whole batch's.
        render: of their maps.
        batches: by size, how many there were and how long they took.
        last_s: when the latest was answered, in seconds since 1970; 0 where none was.
    """

    success: Took = field(default_factory=Took)
    failure: Took = field(default_factory=Took)
    decode: Took = field(default_factory=Took)
    queue: Took = field(default_factory=Took)
    compute: Took = field(default_factory=Took)
    render: Took = field(default_factory=Took)
    batches: dict[int, Took] = field(default_factory=dict)
    last_s: float = 0.0

    @property
    def images(self) -> int:
        """How many were computed."""
        return int(self.compute.count)

    def add(self, images: Sequence[ImageAnswer]) -> None:
        """Count the images of an answer; those that failed have none."""
        self.last_s = time.time()
        for image in images:
            if image.error is not None:
                continue
            times = image.times
            self.decode.add(times.decode_s)
            self.queue.add(times.queue_s)
            self.compute.add(times.compute_s)
            self.render.add(times.render_s)
            size = max(1, times.batch_size)
            self.batches.setdefault(size, Took()).add(times.compute_s / size, 1 / size)


class Tallies:
    """The tallies of all versions, by model and label."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    def of(self, model: str, version: str) -> Tally:
        """Return that of a version; those of the first ones are forgotten where there were very many."""
        tally = self._tallies.setdefault((model, version), Tally())
        if len(self._tallies) > _REMEMBERED:
            self._tallies.pop(next(iter(self._tallies)))
        return tally
