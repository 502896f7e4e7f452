from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from service.engine.workers.isolation import run_isolated

if TYPE_CHECKING:
    from collections.abc import Sequence


def doubled(rows: Sequence[int], bad: set[int]) -> list[int]:
    if bad & set(rows):
        raise ValueError("bad row")
    return [2 * row for row in rows]


@given(n=st.integers(1, 64), data=st.data())
def test_exactly_the_bad_rows_fail(n: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, n - 1)))
    isolated = run_isolated(lambda rows: doubled(rows, bad), range(n))
    for row, outcome in enumerate(isolated.outcomes):
        assert isinstance(outcome, ValueError) if row in bad else outcome == 2 * row
    assert isolated.fits is None


def test_one_bad_row_of_32_costs_logarithmically_many_runs() -> None:
    runs: list[int] = []

    def run(rows: Sequence[int]) -> list[int]:
        runs.append(len(rows))
        return doubled(rows, {13})

    isolated = run_isolated(run, range(32))
    assert sum(isinstance(outcome, ValueError) for outcome in isolated.outcomes) == 1
    assert isolated.splits == 5
    assert sorted(runs) == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32]


@given(n=st.integers(1, 64), capacity=st.integers(1, 64))
def test_a_batch_too_big_for_the_device_is_cut_until_it_fits(n: int, capacity: int) -> None:
    released: list[bool] = []

    def run(rows: Sequence[int]) -> list[int]:
        if len(rows) > capacity:
            raise MemoryError
        return doubled(rows, set())

    isolated = run_isolated(run, range(n), lambda error: isinstance(error, MemoryError), lambda: released.append(True))
    assert isolated.outcomes == [2 * row for row in range(n)]
    if n <= capacity:
        assert isolated.fits is None
    else:
        assert isolated.fits is not None
        assert 1 <= isolated.fits <= capacity
        assert len(released) == isolated.splits


def test_a_row_that_never_fits_fails_alone() -> None:
    def run(rows: Sequence[int]) -> list[int]:
        if 2 in rows:
            raise MemoryError
        return list(rows)

    isolated = run_isolated(run, range(4), lambda error: isinstance(error, MemoryError))
    assert [type(outcome) for outcome in isolated.outcomes] == [int, int, MemoryError, int]
    assert isolated.fits == 0


def test_a_lost_result_is_noticed() -> None:
    isolated = run_isolated(lambda rows: list(rows)[:-1], [1])
    assert "1 rows went in and 0 results came out" in str(isolated.outcomes[0])
