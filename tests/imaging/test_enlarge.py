"""A map's own values on finer grids."""

from __future__ import annotations

import numpy as np
import pytest

from service.imaging.enlarge import enlarge, enlarged_shape
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.placement import AxisPlacement, Placement
from service.vocabulary import Size

CROP = geometry_for(PreprocessSpec("crop", 224, 224, 256), 640, 480)
RAMP = np.arange(7, dtype=np.float32)[None].repeat(7, axis=0) - 3


@pytest.mark.parametrize("size", ["picture", "model", "layer"])
def test_values_stay_what_they_are(size: Size) -> None:
    values = enlarge(RAMP, CROP, size, 1024)
    assert values.shape == enlarged_shape(size, CROP, (7, 7), 1024)
    assert values.dtype == np.float32
    assert (values.min(), values.max()) == (-3, 3)


def test_what_the_model_did_not_see_is_zero() -> None:
    values = enlarge(RAMP + 5, CROP, "picture", 1024)
    assert np.all(values[:30] == 0)
    assert np.all(values[30:450, 109:529] >= 2)


def test_cells_are_where_they_look() -> None:
    shifted = Placement(AxisPlacement(48.0, 32.0), AxisPlacement(16.0, 32.0))
    values = enlarge(RAMP, CROP, "model", 1024, shifted)
    assert values[0, 47:49].mean() == pytest.approx(-3, abs=0.05)
    assert enlarge(RAMP, CROP, "model", 1024)[0, 15:17].mean() == pytest.approx(-3, abs=0.05)
