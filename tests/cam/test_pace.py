from __future__ import annotations

import pytest

from service.cam.pace import Pace


def run(pace: Pace, total: int, begin_s: float, row_s: float) -> list[int]:
    """Rows of the steps that ``total`` rows are computed in, each ``begin_s`` and ``row_s`` for every row long."""
    steps = []
    while total:
        rows = min(total, pace.rows("kind"))
        pace.took("kind", rows, begin_s + rows * row_s)
        steps.append(rows)
        total -= rows
    return steps


def test_the_first_step_is_of_one_row_and_others_fill_the_time() -> None:
    steps = run(Pace(step_s=0.1), 1000, begin_s=0.0, row_s=0.001)
    assert steps[:4] == [1, 4, 16, 64]
    assert max(steps) == 100


def test_rows_that_take_longer_than_a_step_go_alone_once_two_have_saved_nothing() -> None:
    assert run(Pace(step_s=0.1), 50, begin_s=0.0, row_s=0.3) == [1, 2, *[1] * 47]


@pytest.mark.parametrize("begin_s", [0.01, 0.07, 0.5])
def test_what_every_step_begins_with_is_not_done_for_every_row(begin_s: float) -> None:
    """Going on from a layer computes what comes before it once for every step."""
    steps = run(Pace(step_s=0.1), 2000, begin_s=begin_s, row_s=0.001)
    assert len(steps) * begin_s <= 2 * 2000 * 0.001 + 8 * begin_s
    assert all(begin_s + rows * 0.001 <= max(0.1, 2 * (begin_s + 0.001)) + 1e-9 for rows in steps)


def test_kinds_are_apart_and_time_that_is_not_measured_is_no_error() -> None:
    pace = Pace()
    pace.took("a", 1, 0.0)
    assert (pace.rows("a"), pace.rows("b")) == (4, 1)
