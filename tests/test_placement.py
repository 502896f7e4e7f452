from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.placement import AxisPlacement, Placement

numbers = st.floats(-1000, 1000)


def test_a_stretched_grid_covers_the_input() -> None:
    placement = Placement.stretched(7, 14, 224, 448)

    assert (placement.x, placement.y) == (AxisPlacement(16, 32), AxisPlacement(16, 32))
    assert (placement.x.to_model(0.0), placement.x.to_model(14.0)) == (0, 448)
    assert (placement.by, placement.residual) == ("stretch", None)


def test_cells_by_hand() -> None:
    axis = AxisPlacement(start=0.5, step=32)  # a ResNet's last layer

    assert axis.to_model(0.5) == 0.5  # the centre of cell 0
    assert axis.to_model(3.0) == 80.5  # half-way between the centres of cells 2 and 3
    assert axis.to_cells(32.5) == 1.5


@given(numbers, st.one_of(st.floats(0.1, 100), st.floats(-100, -0.1)), numbers)
def test_there_and_back(start: float, step: float, pixel: float) -> None:
    axis = AxisPlacement(start, step)

    assert axis.to_model(axis.to_cells(pixel)) == pytest.approx(pixel, abs=1e-6)


@given(st.integers(1, 50), st.integers(8, 500))
def test_the_mirror_image_of_a_stretched_grid_is_the_same_grid(width: int, input_width: int) -> None:
    placement = Placement.stretched(3, width, 8, input_width)

    assert placement.averaged_with_mirror(width, input_width).x.start == pytest.approx(placement.x.start)


def test_with_its_mirror_image_a_grid_lies_between_both() -> None:
    # 7 cells centred at 0, 32, …, 192 of 224 pixels; in the mirror image, turned back, at 32, 64, …, 224.
    placement = Placement(AxisPlacement(0, 32), AxisPlacement(5, 32))

    both = placement.averaged_with_mirror(7, 224)

    assert both.x == AxisPlacement(16, 32)
    assert both.y == placement.y
