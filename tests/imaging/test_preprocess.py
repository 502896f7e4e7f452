from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.imaging.decode import DecodedImage, DecodeLimits
from service.imaging.preprocess import Interpolation, PreprocessSpec, geometry_for, preprocess
from service.models.torchvision_adapter import torchvision

LIMITS = DecodeLimits(10**8, 10**8, 1)


def noise(width: int, height: int) -> DecodedImage:
    pixels = np.random.default_rng(width * 7 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return DecodedImage(Image.fromarray(pixels), width, height, "PNG")


def preset_pixels(image: Image.Image, crop: int, resize: int, interpolation: str) -> np.ndarray[Any, Any]:
    """What torchvision's preset makes, up to and including the crop."""
    functional = torchvision.transforms.functional
    mode = torchvision.transforms.InterpolationMode(interpolation)
    resized = functional.resize(image, [resize], interpolation=mode, antialias=True)
    return np.asarray(functional.center_crop(resized, [crop]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (333, 333), (500, 375), (37, 91), (256, 256), (1024, 77)])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (224, 232), (224, 224), (300, 256), (97, 41)])
def test_crop_is_bit_for_bit_torchvisions(
    interpolation: Interpolation, size: tuple[int, int], crop: int, resize: int
) -> None:
    image = noise(*size)
    ours = preprocess(image, PreprocessSpec("crop", crop, crop, resize, interpolation)).pixels
    np.testing.assert_array_equal(ours, preset_pixels(image.rgb, crop, resize, interpolation))


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80), st.integers(1, 80))
@settings(deadline=None, max_examples=60)
def test_crop_is_torchvisions_for_any_size(width: int, height: int, crop: int, resize: int) -> None:
    image = noise(width, height)
    ours = preprocess(image, PreprocessSpec("crop", crop, crop, resize)).pixels
    np.testing.assert_array_equal(ours, preset_pixels(image.rgb, crop, resize, "bilinear"))


def test_the_whole_preset_is_ours_normalised() -> None:
    from torchvision.transforms._presets import ImageClassification

    image = noise(500, 375)
    spec = PreprocessSpec("crop", 224, 224, 256)
    scaled = preprocess(image, spec).pixels.astype(np.float32) / np.float32(255)
    ours = (scaled - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)
    preset = ImageClassification(crop_size=224, resize_size=256)(image.rgb).numpy()
    np.testing.assert_allclose(ours.transpose(2, 0, 1), preset, atol=1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        PreprocessSpec("crop", 50, 60, 64),
        PreprocessSpec("squash", 50, 60),
        PreprocessSpec("pad", 50, 60, fill=(1, 2, 3)),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (200, 100), (100, 200), (1, 90_000), (90_000, 1)])
def test_pixels_have_the_models_shape(spec: PreprocessSpec, size: tuple[int, int]) -> None:
    prepared = preprocess(noise(*size), spec)
    assert prepared.pixels.shape == (50, 60, 3)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.pixels.flags.c_contiguous
    assert prepared.pixels.flags.writeable
    assert prepared.geometry == geometry_for(spec, *size)


def test_a_strip_is_cropped_like_any_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(3, 1500)
    spec = PreprocessSpec("crop", 224, 200, 256)
    exact = preprocess(image, spec).pixels
    monkeypatch.setattr("service.imaging.preprocess._MAX_RESIZED_PIXELS", 1)
    assert np.abs(preprocess(image, spec).pixels.astype(int) - exact).max() <= 1


def test_a_small_strip_is_padded_like_any_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(3, 1500)
    spec = PreprocessSpec("crop", 224, 200, 40)
    exact = preprocess(image, spec).pixels
    monkeypatch.setattr("service.imaging.preprocess._MAX_RESIZED_PIXELS", 1)
    assert np.abs(preprocess(image, spec).pixels.astype(int) - exact).max() <= 1


def test_pad_puts_the_picture_on_the_fill() -> None:
    white = DecodedImage(Image.new("RGB", (64, 32), "white"), 64, 32, "PNG")
    pixels = preprocess(white, PreprocessSpec("pad", 64, 64, fill=(9, 8, 7))).pixels
    assert (pixels[16:48] == 255).all()
    assert (pixels[:16] == (9, 8, 7)).all()
    assert (pixels[48:] == (9, 8, 7)).all()


SPECS = [PreprocessSpec("crop", 96, 96, 110), PreprocessSpec("squash", 96, 96), PreprocessSpec("pad", 96, 96)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.mode)
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 500), (801, 300)])
def test_a_dot_drawn_in_the_picture_is_where_the_geometry_says(spec: PreprocessSpec, size: tuple[int, int]) -> None:
    x, y = size[0] // 2 + 41, size[1] // 2 - 52
    picture = Image.new("RGB", size)
    picture.paste("white", (x - 8, y - 8, x + 8, y + 8))
    prepared = preprocess(DecodedImage(picture, *size, "PNG"), spec)
    brightness = prepared.pixels[..., 0].astype(float)
    rows, columns = np.mgrid[0:96, 0:96] + 0.5
    model = (columns * brightness).sum() / brightness.sum(), (rows * brightness).sum() / brightness.sum()
    assert prepared.geometry.to_image(*model) == pytest.approx((x, y), abs=0.2)


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("mode", {"mode": "stretch"}),
        ("height", {"height": 0}),
        ("resize", {"resize": 0}),
        ("resize", {"mode": "pad", "resize": 256}),
        ("interpolation", {"interpolation": "magic"}),
        ("mean", {"mean": (0.0, 0.0)}),
        ("mean", {"mean": (0.0, float("nan"), 0.0)}),
        ("std", {"std": (1.0, 0.0, 1.0)}),
        ("fill", {"fill": (0, 0, 256)}),
    ],
)
def test_a_spec_that_cannot_work_is_refused(field: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        PreprocessSpec(**options)


@pytest.mark.parametrize("size", [(640, 480), (37, 91)])
@pytest.mark.parametrize(("crop", "resize"), [(224, 256), (97, 41)])
def test_grey_is_bit_for_bit_torchvisions(size: tuple[int, int], crop: int, resize: int) -> None:
    """``Grayscale`` first, as recipes for grey pictures have it; where the crop is larger, the border is black."""
    image = noise(*size)
    luminance = torchvision.transforms.functional.to_grayscale(image.rgb)
    spec = PreprocessSpec("crop", crop, crop, resize, mean=(0.5,), std=(0.5,), channels=1)
    np.testing.assert_array_equal(
        preprocess(image, spec).pixels[..., 0], preset_pixels(luminance, crop, resize, "bilinear")
    )


def test_grey_weighs_colours_as_eyes_do() -> None:
    colours = Image.new("RGB", (4, 1))
    for x, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)]):
        colours.putpixel((x, 0), colour)
    spec = PreprocessSpec("squash", 1, 4, mean=(0.0,), std=(1.0,), channels=1)
    pixels = preprocess(DecodedImage(colours, 4, 1, "PNG"), spec).pixels
    assert pixels.shape == (1, 4, 1)
    assert pixels[0, :, 0].tolist() == [76, 150, 29, 77]  # 0.299, 0.587 and 0.114 of 255; grey stays as it is


def test_grey_is_padded_with_the_fills_luminance() -> None:
    white = DecodedImage(Image.new("RGB", (64, 32), "white"), 64, 32, "PNG")
    spec = PreprocessSpec("pad", 64, 64, mean=(0.0,), std=(1.0,), channels=1, fill=(255, 0, 0))
    pixels = preprocess(white, spec).pixels
    assert (pixels[16:48] == 255).all()
    assert (pixels[:16] == 76).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": 4}, "mean and std must have one number per channel, 4"),
        ({"order": "GBR"}, "order must be RGB or BGR"),
        ({"channels": 1}, "one number per channel, 1"),
        ({"channels": 1, "mean": (0.5,), "std": (0.5,), "order": "BGR"}, "an order is of three channels"),
    ],
    ids=str,
)
def test_channels_that_cannot_be(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        PreprocessSpec(**changes)
