"""A batch is not a blast radius: one bad row fails alone, and a batch too big for the device is cut smaller.

Runs in the worker process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Isolated", "run_isolated"]

Row = TypeVar("Row")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Isolated(Generic[Result]):
    """One outcome per row, in order.

    Attributes:
        outcomes: a result, or the exception that this row raises by itself.
        fits: the largest number of rows that did not run out of memory, where some number did; None otherwise.
        splits: how often a batch was cut in two.
    """

    outcomes: list[Result | Exception]
    fits: int | None = None
    splits: int = 0


def run_isolated(
    run: Callable[[Sequence[Row]], list[Result]],
    rows: Sequence[Row],
    is_out_of_memory: Callable[[Exception], bool] = lambda _: False,
    release: Callable[[], None] = lambda: None,
) -> Isolated[Result]:
    """Run ``rows`` together; where that raises, halve until only the guilty rows are left.

    Args:
        run: computes rows together, one result each.
        rows: the batch.
        is_out_of_memory: whether an exception says that the batch was too big rather than a row bad.
        release: called after such an exception, to free the device's memory before the halves are tried.
    """
    try:
        results = run(rows)
        if len(results) != len(rows):
            raise RuntimeError(f"{len(rows)} rows went in and {len(results)} results came out")
        return Isolated(list(results))
    except Exception as error:  # noqa: BLE001  # whatever a model raises belongs to its rows, not to the worker
        exhausted = is_out_of_memory(error)
        if len(rows) == 1:
            return Isolated([error], fits=0 if exhausted else None)
    # Outside the handler: while an exception is handled, its traceback keeps the failed batch's tensors alive.
    if exhausted:
        release()
    half = (len(rows) + 1) // 2
    parts = [run_isolated(run, part, is_out_of_memory, release) for part in (rows[:half], rows[half:])]
    known = [part.fits for part in parts if part.fits is not None]
    if exhausted:
        known.append(half)
    return Isolated(
        [outcome for part in parts for outcome in part.outcomes],
        fits=min(known, default=None),
        splits=1 + sum(part.splits for part in parts),
    )
