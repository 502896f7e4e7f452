"""Maps that know nothing of the model: what any map must beat before it is worth looking at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BASELINES", "baseline", "shifted"]

BASELINES = ("random", "centre", "edges")
_RANDOM_CELLS = 7
_LEAST_SHIFT = 0.25  # of a side


def baseline(name: str, pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a map (h, w) for a model's input (h, w, channels).

    Args:
        name: ``random``, 7 × 7 random cells; ``centre``, a bell in the middle; ``edges``, the strength of the picture's
            edges after Sobel.
        pixels: the input.
        rng: for ``random``.
    """
    height, width = pixels.shape[:2]
    if name == "random":
        cells = rng.random((_RANDOM_CELLS, _RANDOM_CELLS), np.float32)
        return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BILINEAR))
    if name == "centre":
        return np.outer(_bell(height), _bell(width)).astype(np.float32)
    return _sobel(pixels.astype(np.float32).mean(axis=2))


def _bell(size: int) -> NDArray[np.float64]:
    places = (np.arange(size) + 0.5) / size - 0.5
    return np.asarray(np.exp(-0.5 * (places / 0.25) ** 2))


def _sobel(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the magnitude of the gradient of (h, w), after Sobel's kernels."""
    padded = np.pad(grey, 1, mode="edge")
    down = padded[2:] - padded[:-2]  # (h, w + 2)
    right = padded[:, 2:] - padded[:, :-2]  # (h + 2, w)
    gy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    gx = right[:-2] + 2 * right[1:-1] + right[2:]
    return np.asarray(np.hypot(gx, gy), np.float32)


def shifted(evidence: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Roll a map (h, w) by at least a quarter of either side: as sparse, as smooth and as strong, and elsewhere."""
    by = [round(size * rng.uniform(_LEAST_SHIFT, 1 - _LEAST_SHIFT)) for size in evidence.shape]
    return np.roll(evidence, by, axis=(0, 1))
