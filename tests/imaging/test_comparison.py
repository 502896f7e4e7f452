"""Correlation of maps, and the mass of one in a marked area, by numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import InvalidOption
from service.imaging.comparison import PlacedMap, correlation, marked_area, mass_inside
from service.imaging.geometry import Geometry
from service.placement import AxisPlacement, Placement

WHOLE = Geometry(40, 40, 40, 40, 1.0, 1.0, 0.0, 0.0)
STRETCHED = Placement.stretched(4, 4, 40, 40)


def placed(values: Any, placement: Placement = STRETCHED) -> PlacedMap:
    return PlacedMap(np.array(values, np.float32), placement)


def rows(*row: float) -> Any:
    """Four equal rows."""
    return [row] * 4


class TestCorrelation:
    def test_a_map_agrees_with_itself_at_any_scale(self) -> None:
        values = np.arange(16, dtype=np.float32).reshape(4, 4)
        assert correlation(placed(values), placed(1e-30 * values + 1e-30)) == pytest.approx(1, abs=1e-5)
        assert correlation(placed(values), placed(-values)) == pytest.approx(-1)

    def test_by_hand(self) -> None:
        """Deviations -1.5, -0.5, 0.5, 1.5 and -1, 1, 1, -1 of the columns: their products sum up to 0."""
        assert correlation(placed(rows(0, 1, 2, 3)), placed(rows(0, 2, 2, 0))) == pytest.approx(0, abs=1e-7)
        # Deviations -1.5, -0.5, 0.5, 1.5 and -1, 0, 0, 1: 3 / sqrt(5 * 2).
        assert correlation(placed(rows(0, 1, 2, 3)), placed(rows(0, 1, 1, 2))) == pytest.approx(3 / 10**0.5)

    def test_a_coarse_map_is_read_where_the_fine_one_looks(self) -> None:
        coarse = PlacedMap(np.array([[0, 8]] * 2, np.float32), Placement.stretched(2, 2, 40, 40))
        # Centres at 10 and 30; the fine one's at 5, 15, 25, 35.
        fine = placed(rows(0, 2, 6, 8))
        assert correlation(coarse, fine) == correlation(fine, coarse) == pytest.approx(1)

    def test_maps_are_compared_where_they_look(self) -> None:
        """The same slope, seen a cell further to the right: the values there are those of the cell before."""
        shifted = Placement(AxisPlacement(15, 10), STRETCHED.y)
        assert correlation(placed(rows(0, 0, 1, 0)), placed(rows(0, 1, 0, 0), shifted)) == pytest.approx(1)
        assert correlation(placed(rows(0, 0, 1, 0)), placed(rows(0, 1, 0, 0))) == pytest.approx(-1 / 3)

    def test_a_map_that_is_the_same_everywhere_agrees_with_nothing(self) -> None:
        assert correlation(placed(np.zeros((4, 4))), placed(rows(0, 1, 2, 3))) is None
        assert correlation(placed(rows(0, 1, 2, 3)), placed(np.full((4, 4), 0.1) + 1e-9)) is None


class TestMassInside:
    def test_an_even_map_has_as_much_inside_as_the_box_takes_of_the_picture(self) -> None:
        even = placed(np.ones((4, 4)))
        assert mass_inside(even, WHOLE, marked_area([0, 0, 10, 40])) == pytest.approx(1 / 4)
        assert mass_inside(even, WHOLE, marked_area([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.2 * 0.2 / 1600, rel=1e-3)
        assert mass_inside(even, WHOLE, marked_area([-100, -100, 20, 20])) == pytest.approx(1 / 4)

    def test_a_triangle_is_half_of_its_box(self) -> None:
        even = placed(np.ones((4, 4)))
        assert mass_inside(even, WHOLE, marked_area([[0, 0], [40, 0], [0, 40]])) == pytest.approx(1 / 2, abs=0.01)

    def test_a_polygon_that_crosses_itself_is_what_it_encloses(self) -> None:
        bow = marked_area([[0, 0], [40, 40], [40, 0], [0, 40]])
        assert mass_inside(placed(np.ones((4, 4))), WHOLE, bow) == pytest.approx(1 / 2, abs=0.01)

    def test_a_hole_that_a_slit_leads_to_is_none_of_it(self) -> None:
        """As masks with holes are written as one polygon."""
        outer, inner = [[0, 0], [40, 0], [40, 40], [0, 40]], [[10, 10], [10, 30], [30, 30], [30, 10]]
        ring = [*outer, outer[0], inner[0], *inner[1:], inner[0]]
        assert marked_area(ring).shape.area == 40 * 40 - 20 * 20
        assert marked_area(ring[::-1]).shape.area == 40 * 40 - 20 * 20

    def test_one_that_crosses_itself_very_often_takes_no_time(self) -> None:
        """A star of 99 points, each joined to the one opposite: nearly 5000 crossings; a third of the disc."""
        angles = np.arange(99) * 2 * np.pi * 49 / 99
        star = np.stack([20 + 20 * np.cos(angles), 20 + 20 * np.sin(angles)], axis=1).tolist()
        assert marked_area(star).shape.area == pytest.approx(400 * np.pi / 3, rel=0.01)
        with pytest.raises(InvalidOption, match="crosses itself"):
            marked_area([*star, [20, 20], [0, 20]])

    def test_by_hand(self) -> None:
        """Between centres it is linear: 0 to x = 15, up to 1 at 25 and on: 5 of a slope and 15 of a plateau."""
        step = placed(rows(0, 0, 1, 1))
        # To the left of 20 lies a triangle of width 5 and height 1/2: 1.25 of 20.
        assert mass_inside(step, WHOLE, marked_area([0, 0, 20, 40])) == pytest.approx(1.25 / 20, abs=1e-4)
        assert mass_inside(step, WHOLE, marked_area([20, 0, 40, 40])) == pytest.approx(18.75 / 20, abs=1e-4)

    def test_what_speaks_against_the_class_counts_for_nothing(self) -> None:
        """-5 counts as 0, also for what lies between: of 20, 15 lie on the plateau."""
        against = placed(rows(-5, -5, 1, 1))
        assert mass_inside(against, WHOLE, marked_area([25, 0, 40, 40])) == pytest.approx(15 / 20, abs=1e-4)
        assert mass_inside(placed(rows(-1, -1, 0, 0)), WHOLE, marked_area([0, 0, 40, 40])) is None

    def test_only_what_the_model_saw_has_mass(self) -> None:
        """Of a picture of 80 × 40 it saw the middle, 20 to 60."""
        crop = Geometry(80, 40, 40, 40, 1.0, 1.0, 20.0, 0.0)
        even = placed(np.ones((4, 4)))
        assert mass_inside(even, crop, marked_area([0, 0, 20, 40])) == 0
        assert mass_inside(even, crop, marked_area([0, 0, 40, 40])) == pytest.approx(1 / 2)

    def test_the_extremes_of_float32(self) -> None:
        even = placed(np.full((4, 4), 3e38))
        assert mass_inside(even, WHOLE, marked_area([0, 0, 20, 40])) == pytest.approx(1 / 2)


class TestMarkedArea:
    @pytest.mark.parametrize("text", ["[1, 2, 3.5, 4]", "[[0, 0], [1, 0], [0, 1]]"])
    def test_it_may_come_as_text(self, text: str) -> None:
        assert marked_area(text).shape.area > 0

    @pytest.mark.parametrize(
        "region",
        [
            "",
            "other",
            "{}",
            "1",
            "[" * 5000,
            [],
            [1, 2, 3],
            [3, 0, 1, 4],
            [0, 4, 4, 4],
            [0, 0, float("nan"), 4],
            [0, 0, float("inf"), 4],
            [0, 0, 10**400, 4],
            [0, 0, True, 4],
            [[0, 0], [1, 1]],
            [[0, 0], [1, 1], [2]],
            [[0, 0], [1, 1], "ab"],
            [[0, 0], [1, 1], [2, 2]],
            [[0, 0]] * 1001,
        ],
        ids=lambda region: str(region)[:30],
    )
    def test_anything_else_is_refused_with_what_to_send(self, region: Any) -> None:
        with pytest.raises(InvalidOption, match="box"):
            marked_area(region)
