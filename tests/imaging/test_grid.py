from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.imaging.grid import grid_for
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.vocabulary import Fitting, Size

CROP = geometry_for(PreprocessSpec("crop", 224, 224, 256), 640, 480)
PAD = geometry_for(PreprocessSpec("pad", 224, 224), 640, 480)


@pytest.mark.parametrize(
    ("size", "max_side", "shape"),
    [
        ("picture", 1024, (480, 640)),
        ("picture", 320, (240, 320)),
        ("picture", 16, (12, 16)),
        ("model", 16, (224, 224)),
        ("layer", 1024, (7, 9)),
    ],
)
def test_sizes(size: Size, max_side: int, shape: tuple[int, int]) -> None:
    assert grid_for(size, CROP, (7, 9), max_side).shape == shape


def test_the_seen_pixels_of_the_picture_by_hand() -> None:
    # Seen: x from 58·640/341 = 108.86 to 282·640/341 = 529.27, y from 30 to 450; a pixel counts by its centre.
    grid = grid_for("picture", CROP, (7, 7), 1024)
    assert grid.seen == (slice(30, 450), slice(109, 529))


def test_a_padded_model_input_is_seen_where_the_picture_is() -> None:
    grid = grid_for("model", PAD, (7, 7), 1024)
    assert grid.seen == (slice(28, 196), slice(0, 224))
    # Cells of 32 model pixels, 28 of padding: the first row's centre, 16, is padding; the second's, 48, is not.
    assert grid_for("layer", PAD, (7, 7), 1024).seen == (slice(1, 6), slice(0, 7))


def test_centres_are_the_centres_in_the_model() -> None:
    x = grid_for("picture", CROP, (7, 7), 1024).x
    assert x.centres()[0] == pytest.approx(CROP.to_model(109.5, 0.0)[0])
    assert x.edge(0) == -58


def test_a_view_thinner_than_a_pixel_is_one_pixel() -> None:
    strip = geometry_for(PreprocessSpec("crop", 224, 224, 256), 5000, 1)
    grid = grid_for("picture", strip, (7, 7), 16)
    assert grid.shape == (1, 16)
    assert grid.x.last - grid.x.first == 1
    assert grid.x.first in (7, 8)


@given(
    st.sampled_from(["crop", "squash", "pad"]),
    st.sampled_from(["picture", "model", "layer"]),
    *[st.integers(1, 3000)] * 2,
    *[st.integers(1, 300)] * 4,
    st.integers(1, 2000),
)
def test_the_grid_of_anything_has_pixels_that_are_seen(
    mode: Fitting, size: Size, width: int, height: int, model: int, resize: int, h: int, w: int, max_side: int
) -> None:
    geometry = geometry_for(PreprocessSpec(mode, model, model, resize if mode == "crop" else None), width, height)
    grid = grid_for(size, geometry, (h, w), max_side)
    for axis in (grid.x, grid.y):
        assert 0 <= axis.first < axis.last <= axis.size
        assert len(axis.centres()) == axis.last - axis.first
    if size == "picture":
        assert max(grid.shape) == min(max_side, max(width, height))
