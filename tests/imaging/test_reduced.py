"""Large JPEGs decoded at a part of their size, where a model asks for it: enough of it, and in the same places."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from service.engine.cost import Cost, Spending
from service.engine.pipeline import Picture, _open
from service.engine.request import Upload
from service.imaging.decode import DecodeLimits, decode
from service.imaging.preprocess import PreprocessSpec, decode_for, preprocess
from service.imaging.render import RenderSpec

if TYPE_CHECKING:
    from service.imaging.preprocess import Interpolation
    from service.vocabulary import Fitting

LIMITS = DecodeLimits(10_000_000, 10_000_000, 10)
SPEC = PreprocessSpec("crop", 24, 24, resize=32, decoding="reduced")
FULL = replace(SPEC, decoding="full")


def scene(width: int, height: int) -> Image.Image:
    """Two slow waves and a gradient: nothing that a coarser grid could not show."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    colours = (np.sin(3 * x) * 200 + 20, np.cos(2 * y) ** 2 * 200 + 20, 120 * x + 80 * y)
    return Image.fromarray(np.stack(colours, axis=-1).clip(0, 255).astype(np.uint8))


def file_of(picture: Image.Image, kind: str = "JPEG", orientation: int = 1, **options: Any) -> bytes:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    picture.save(stream, kind, exif=exif, quality=95, **options)
    return stream.getvalue()


@given(
    width=st.integers(16, 700),
    height=st.integers(16, 700),
    orientation=st.integers(1, 8),
    mode=st.sampled_from(["crop", "squash", "pad"]),
)
def test_it_has_twice_what_the_model_needs_and_lies_in_the_same_places(
    width: int, height: int, orientation: int, mode: Fitting
) -> None:
    spec = replace(SPEC, mode=mode, resize=32 if mode == "crop" else None)
    data = file_of(scene(width, height), orientation=orientation)
    whole, reduced = decode(data, LIMITS), decode_for(data, LIMITS, spec)
    assert (reduced.width, reduced.height) == (whole.width, whole.height)
    prepared, expected = preprocess(reduced, spec), preprocess(whole, spec)
    assert prepared.geometry == expected.geometry
    resized = prepared.geometry.scale_x * whole.width, prepared.geometry.scale_y * whole.height
    for has, all_of_it, needed in zip(reduced.rgb.size, whole.rgb.size, resized, strict=True):
        assert has >= min(all_of_it, 2 * needed - 1e-6)
        assert has >= all_of_it / 8
    # The fewer pixels the whole picture becomes, the more it changes from one to the next.
    assert np.abs(prepared.pixels.astype(int) - expected.pixels).max() <= 4 + 32 / min(resized)


# 32 pixels are needed of the shorter side, 64 with what is to spare: an eighth of 480 is 60, a quarter 120.
@pytest.mark.parametrize(("width", "height", "columns"), [(640, 480, 160), (300, 255, 150), (190, 127, 190)])
def test_as_small_as_is_enough(width: int, height: int, columns: int) -> None:
    found = decode_for(file_of(scene(width, height)), LIMITS, SPEC)
    assert found.rgb.width == columns
    assert found.is_reduced == (columns < width)


def test_other_formats_and_models_get_all_pixels() -> None:
    picture = scene(640, 480)
    assert not decode_for(file_of(picture, "PNG"), LIMITS, SPEC).is_reduced
    assert not decode_for(file_of(picture), LIMITS, FULL).is_reduced


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}])
def test_every_kind_of_jpeg_can_be_reduced(options: dict[str, Any]) -> None:
    assert decode_for(file_of(scene(640, 480), **options), LIMITS, SPEC).is_reduced
    grey = PreprocessSpec("crop", 24, 24, resize=32, channels=1, mean=(0.5,), std=(0.5,), decoding="reduced")
    for mode in ("L", "CMYK"):
        found = decode_for(file_of(scene(640, 480).convert(mode), **options), LIMITS, grey)
        assert found.is_reduced
        assert preprocess(found, grey).pixels.shape == (24, 24, 1)


def test_people_see_all_of_the_picture() -> None:
    data = file_of(scene(640, 480))

    def opened(spec: PreprocessSpec) -> Any:
        info: Any = SimpleNamespace(preprocess=spec)
        todo: Any = SimpleNamespace(info=info, render=RenderSpec(frozenset({"overlay"}), size="picture"))
        return _open(Picture(Upload(data), todo, Spending(Cost())), LIMITS)

    reduced, whole = opened(SPEC), opened(FULL)
    assert (reduced.width, reduced.height) == (640, 480)
    assert (reduced.prepared.pixels != whole.prepared.pixels).any()
    assert reduced.canvas is not None
    np.testing.assert_array_equal(reduced.canvas.under((7, 7)), whole.canvas.under((7, 7)))


@pytest.mark.parametrize("interpolation", ["nearest", "plain_bilinear"])
def test_a_filter_that_skips_pixels_is_refused(interpolation: Interpolation) -> None:
    with pytest.raises(ValueError, match="antialiased"):
        replace(SPEC, interpolation=interpolation)
    assert replace(FULL, interpolation=interpolation).decoding == "full"
