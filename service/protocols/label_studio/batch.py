"""The tasks of one request: several at once, as many as the time suffices for, and what is done is kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from service.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    Prediction = dict[str, Any]
    Outcome = Prediction | ServiceError | None

__all__ = ["Finished", "run"]

_AT_ONCE = 16  # tasks of a request: enough for a batch, while others are fetched
_NUMBER_BYTES = 8


async def run(work: Sequence[Callable[[], Coroutine[Any, Any, Prediction]]], budget_s: float) -> list[Outcome]:
    """Do tasks; return a prediction, an error, or None where the time did not suffice, for each.

    What is not done in time is given up.
    """
    if not work:
        return []
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(do: Callable[[], Coroutine[Any, Any, Prediction]]) -> Outcome:
        async with room:
            try:
                return await do()
            except ServiceError as error:
                error.__traceback__ = error.__context__ = None  # frames that hold pictures
                return error

    tasks = [asyncio.create_task(one(do)) for do in work]
    try:
        done, _ = await asyncio.wait(tasks, timeout=budget_s)
        return [each.result() if each in done else None for each in tasks]
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Finished:
    """Predictions that wait until somebody asks for them again; of too many bytes, the oldest are dropped."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[str, tuple[Prediction, int]] = OrderedDict()

    def get(self, key: str) -> Prediction | None:
        """Return a prediction, if it is there."""
        found = self._kept.get(key)
        return None if found is None else found[0]

    def keep(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction."""
        self.forget([key])
        size = len(key) + _bytes_of(prediction)
        self._kept[key] = prediction, size
        self._bytes += size
        while self._bytes > self._most:
            self._bytes -= self._kept.popitem(last=False)[1][1]

    def forget(self, keys: Iterable[str]) -> None:
        """Drop predictions that were fetched."""
        for key in keys:
            if (found := self._kept.pop(key, None)) is not None:
                self._bytes -= found[1]


def _bytes_of(value: Any) -> int:
    """Estimate the room that JSON takes in memory; small whole numbers, as of run lengths, are there once."""
    total, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left.extend(each.values())
            total += 100 * (len(each) + 1)
        elif isinstance(each, list):
            total += _NUMBER_BYTES * len(each) + 60
            if each and not isinstance(each[0], int):
                left.extend(each)
        else:
            total += len(each) + 50 if isinstance(each, str) else 30
    return total
