"""Bilinear resizing that is not antialiased, by numbers worked out by hand and against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from service.imaging.plain_bilinear import resize_plainly


def test_half_the_size_looks_at_two_pixels_of_four() -> None:
    image = Image.fromarray(np.array([[0, 100, 200, 40]], dtype=np.uint8))

    # Places 0.5 and 2.5 of the pixels' middles: between 0 and 100, and between 200 and 40.
    assert np.asarray(resize_plainly(image, (2, 1), (0, 0, 4, 1))).tolist() == [[50, 120]]


def test_a_third_of_the_size_passes_pixels_over() -> None:
    image = Image.fromarray(np.array([[9, 90, 9, 9, 30, 9]], dtype=np.uint8))

    assert np.asarray(resize_plainly(image, (2, 1), (0, 0, 6, 1))).tolist() == [[90, 30]]


def test_beyond_the_outermost_middles_it_stays() -> None:
    image = Image.fromarray(np.array([[10, 20]], dtype=np.uint8))

    assert np.asarray(resize_plainly(image, (4, 1), (0, 0, 2, 1))).tolist() == [[10, 13, 18, 20]]


def test_a_box_is_what_is_resized() -> None:
    image = Image.fromarray(np.array([[0, 100, 200, 40]], dtype=np.uint8))

    assert np.asarray(resize_plainly(image, (2, 1), (1, 0, 3, 1))).tolist() == [[100, 200]]


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 48), (200, 3)])
def test_it_is_pytorchs_rounded(mode: str, size: tuple[int, int]) -> None:
    shape = (31, 45, 3) if mode == "RGB" else (31, 45)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    planes = torch.from_numpy(pixels.reshape(31, 45, -1)).permute(2, 0, 1)[None].float()

    resized = resize_plainly(Image.fromarray(pixels), size, (0, 0, 45, 31))

    expected = torch.nn.functional.interpolate(planes, size[::-1], mode="bilinear")[0].permute(1, 2, 0).numpy()
    found = np.asarray(resized).reshape(expected.shape)
    assert resized.mode == mode
    # Half a level of rounding, and places that PyTorch finds in float32.
    assert np.abs(found - expected).max() <= 0.5 + 1e-2
