"""Insertion minus deletion: how fast the class comes with the hottest pixels, and goes with them.

Petsiuk et al. (RISE), https://arxiv.org/abs/1806.07421. Pixels are put into a blurred picture, and replaced by grey.
Each of the two is moved by the grain of a map as much as by where it looks; their difference less so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFilter

from service.evaluation.ranking import ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["STEPS", "insertion_deletion", "insertion_deletion_ends", "insertion_deletion_inputs"]

STEPS = 6
_BLUR = 5 / 224  # standard deviation, of the input's side


def insertion_deletion_ends(pixels: NDArray[np.uint8], grey: NDArray[Any]) -> NDArray[np.uint8]:
    """Return what all maps of a picture begin and end with: (3, h, w, channels), blurred, grey, and as it is.

    Args:
        pixels: the model's input, (h, w, channels).
        grey: (channels,), 0–255: what pixels are replaced by, the mean of the model's pictures.
    """
    radius = _BLUR * max(pixels.shape[:2])
    blurred = [
        np.asarray(Image.fromarray(plane).filter(ImageFilter.GaussianBlur(radius)))
        for plane in np.ascontiguousarray(pixels.transpose(2, 0, 1))
    ]
    flat = np.broadcast_to(np.clip(np.round(grey), 0, 255).astype(np.uint8), pixels.shape)
    return np.stack([np.stack(blurred, axis=2), flat, pixels])


def insertion_deletion_inputs(
    ends: NDArray[np.uint8], evidence: NDArray[Any], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return what the model is shown between the ends: (2 · (STEPS - 1), h, w, channels), insertions first.

    Args:
        ends: see :func:`insertion_deletion_ends`.
        evidence: the map, (h, w).
        rng: decides among equal pixels.
    """
    place = ranks(evidence, rng)[..., None]
    counts = [round(place.size * step / STEPS) for step in range(1, STEPS)]
    blurred, grey, clean = ends
    inserted = [np.where(place < count, clean, blurred) for count in counts]
    deleted = [np.where(place < count, grey, clean) for count in counts]
    return np.stack([*inserted, *deleted])


def insertion_deletion(ends: NDArray[Any], between: NDArray[Any]) -> float:
    """Return the area below the insertion curve minus that below the deletion curve, in -1 to 1.

    Args:
        ends: the class's probability for the blurred, the grey and the clean picture.
        between: for those of :func:`insertion_deletion_inputs`.
    """
    blurred, grey, clean = (float(each) for each in ends)
    inserted, deleted = np.split(np.asarray(between, np.float64), 2)
    insertion = _area(np.array([blurred, *inserted, clean]))
    return insertion - _area(np.array([clean, *deleted, grey]))


def _area(curve: NDArray[np.float64]) -> float:
    """Return the area below a curve over evenly spaced points of 0 to 1."""
    return float((curve[1:] + curve[:-1]).mean() / 2)
