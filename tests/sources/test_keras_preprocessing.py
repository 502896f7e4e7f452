"""How a picture becomes the input of a Keras model, against what Keras itself does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pytest
from PIL import Image

from service.imaging.decode import DecodedImage
from service.imaging.preprocess import Interpolation, PreprocessSpec, preprocess
from service.models.inputs import with_preset
from service.models.sources.keras import import_keras
from service.vocabulary import Preset
from tests.sources.extras import need

if TYPE_CHECKING:
    from pathlib import Path

need("h5py", "keras")

SIZES = [(48, 64), (200, 150), (31, 17), (64, 48)]


@pytest.fixture(scope="module")
def keras() -> Any:
    return import_keras()


def picture(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def prepared(image: Image.Image, interpolation: Interpolation, channels: int = 3) -> Any:
    normal = (0.0,) * channels, (1.0,) * channels
    spec = PreprocessSpec("squash", 48, 64, None, interpolation, 1.0, *normal, channels)
    rgb = image.convert("RGB")
    decoded = DecodedImage(rgb, rgb.width, rgb.height, "PNG")
    return preprocess(decoded, spec).pixels


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_nearest_is_load_img(height: int, width: int, channels: int, keras: Any, tmp_path: Path) -> None:
    image = picture(width, height, channels)
    image.save(tmp_path / "picture.png")
    mode = "rgb" if channels == 3 else "grayscale"

    expected = keras.utils.load_img(tmp_path / "picture.png", color_mode=mode, target_size=(48, 64))

    assert np.array_equal(prepared(image, "nearest", channels).squeeze(), np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_bilinear_is_resizing(height: int, width: int, channels: int, keras: Any) -> None:
    image = picture(width, height, channels)
    pixels = np.asarray(image, dtype=np.float32).reshape(1, height, width, channels)

    expected = keras.layers.Resizing(48, 64)(pixels)[0].numpy()

    # Whole grey levels are half of one away at most; PyTorch finds its places in float32.
    assert np.abs(prepared(image, "plain_bilinear", channels) - expected).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("preset", get_args(Preset))
def test_a_preset_is_preprocess_input(preset: Preset, keras: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.float32)
    spec = with_preset(PreprocessSpec("squash", 8, 8), preset)
    ordered = pixels[..., ::-1] if spec.order == "BGR" else pixels

    found = (ordered * np.float32(spec.scale) - np.array(spec.mean, np.float32)) / np.array(spec.std, np.float32)

    expected = keras.applications.imagenet_utils.preprocess_input(pixels.copy(), mode=preset)
    assert np.abs(found - expected).max() <= 2e-5
