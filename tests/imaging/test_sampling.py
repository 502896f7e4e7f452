from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.imaging.sampling import resample

MAP = np.array([[0.0, 4.0], [8.0, 16.0]], np.float32)


@pytest.mark.parametrize(
    ("x", "y", "value"),
    [
        (0.5, 0.5, 0.0),  # the centres of the cells have the cells' values
        (1.5, 0.5, 4.0),
        (0.5, 1.5, 8.0),
        (1.5, 1.5, 16.0),
        (1.0, 1.0, 7.0),  # the middle is the mean of four
        (0.75, 0.5, 1.0),
        (1.0, 1.25, 9.5),  # three quarters of the way between the rows' means 2 and 12
        (0.0, 0.0, 0.0),  # beyond the outermost centres nothing changes
        (2.0, 2.0, 16.0),
        (-5.0, 9.0, 8.0),
    ],
)
def test_known_values(x: float, y: float, value: float) -> None:
    assert resample(MAP, [x], [y]).item() == pytest.approx(value)


def test_the_shape_is_rows_by_columns() -> None:
    sampled = resample(MAP, np.linspace(0, 2, 5), np.linspace(0, 2, 3))
    assert sampled.shape == (3, 5)
    assert sampled.dtype == np.float32


def test_a_single_cell_is_flat() -> None:
    assert (resample(np.array([[3.0]]), [0, 0.5, 1], [0.2]) == 3).all()


def test_a_plane_is_reproduced_between_the_centres() -> None:
    rows, columns = np.mgrid[0:5, 0:9] + 0.5
    xs, ys = np.linspace(0.5, 8.5, 40), np.linspace(0.5, 4.5, 30)
    expected = 3 * xs[None, :] - 2 * ys[:, None]
    np.testing.assert_allclose(resample(3 * columns - 2 * rows, xs, ys), expected, atol=1e-4)


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.floats(-3, 12), min_size=1, max_size=8), st.integers(0, 99))
def test_samples_never_leave_the_range_of_the_map(height: int, width: int, positions: list[float], seed: int) -> None:
    values: Any = np.random.default_rng(seed).random((height, width))
    sampled = resample(values, positions, positions)
    assert values.min() - 1e-6 <= sampled.min()
    assert sampled.max() <= values.max() + 1e-6
