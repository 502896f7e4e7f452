from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.imaging.geometry import Box, Geometry
from service.imaging.preprocess import PreprocessSpec, geometry_for
from service.vocabulary import Fitting

SIDES = st.integers(1, 5000)
INPUTS = st.integers(1, 600)


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    mode: Fitting = draw(st.sampled_from(["crop", "squash", "pad"]))
    resize = draw(st.none() | st.integers(1, 600)) if mode == "crop" else None
    spec = PreprocessSpec(mode, draw(INPUTS), draw(INPUTS), resize)
    return geometry_for(spec, draw(SIDES), draw(SIDES))


def test_the_view_of_a_wide_picture_by_hand() -> None:
    # 640×480, shorter side to 256: 341×256 (341.33 cut down). Crop 224: left round(58.5) = 58, top 16.
    geometry = geometry_for(PreprocessSpec("crop", 224, 224, 256), 640, 480)
    assert (geometry.left, geometry.top) == (58, 16)
    assert geometry.view.left == pytest.approx(58 * 640 / 341)
    assert geometry.view.right == pytest.approx((58 + 224) * 640 / 341)
    assert (geometry.view.top, geometry.view.bottom) == pytest.approx((30, 450))


def test_the_view_of_a_full_hd_picture_is_49_percent_of_its_width() -> None:
    view = geometry_for(PreprocessSpec("crop", 224, 224, 256), 1920, 1080).view
    assert view.width / 1920 == pytest.approx(0.492, abs=1e-3)


def test_squash_sees_everything() -> None:
    geometry = geometry_for(PreprocessSpec("squash", 200, 100), 640, 480)
    assert geometry.view == Box(0, 0, 640, 480)
    assert geometry.to_model(320.0, 240.0) == (50, 100)


def test_pad_sees_everything_and_places_it_in_the_middle() -> None:
    # 640×480 into 224×224: 224×168, 28 rows of fill above and below.
    geometry = geometry_for(PreprocessSpec("pad", 224, 224), 640, 480)
    assert geometry.view == Box(0, 0, 640, 480)
    assert geometry.top == -28
    assert geometry.to_model(0.0, 0.0) == (0, 28)
    assert geometry.to_model(640.0, 480.0) == (224, 196)


def test_a_picture_smaller_than_the_crop_is_seen_whole() -> None:
    geometry = geometry_for(PreprocessSpec("crop", 224, 224), 100, 51)
    assert geometry.view == Box(0, 0, 100, 51)
    assert geometry.to_model(0.0, 0.0) == (62, 86)


def test_box_has_a_size() -> None:
    assert (Box(1, 2, 4, 8).width, Box(1, 2, 4, 8).height) == (3, 6)


@given(geometry=geometries(), x=st.floats(-100, 6000), y=st.floats(-100, 6000))
def test_to_the_model_and_back_is_the_identity(geometry: Geometry, x: float, y: float) -> None:
    assert geometry.to_image(*geometry.to_model(x, y)) == pytest.approx((x, y), abs=1e-6)
    assert geometry.to_model(*geometry.to_image(x, y)) == pytest.approx((x, y), abs=1e-6)


@given(geometry=geometries())
def test_the_view_lies_in_the_picture_and_in_the_model(geometry: Geometry) -> None:
    view = geometry.view
    assert 0 <= view.left < view.right <= geometry.image_width
    assert 0 <= view.top < view.bottom <= geometry.image_height
    corners = [*geometry.to_model(view.left, view.top), *geometry.to_model(view.right, view.bottom)]
    assert min(corners) >= -1e-6
    assert max(corners[0], corners[2]) <= geometry.model_width + 1e-6
    assert max(corners[1], corners[3]) <= geometry.model_height + 1e-6


def test_arrays_are_mapped_like_numbers() -> None:
    geometry = geometry_for(PreprocessSpec("crop", 224, 224, 256), 640, 480)
    xs, ys = geometry.to_model(np.array([0.0, 320.0]), np.array([0.0, 240.0]))
    assert (xs[1], ys[1]) == geometry.to_model(320.0, 240.0)
