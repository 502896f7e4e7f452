"""The pictures of an evaluation: what the model sees of them, and what is known to be on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from service.evaluation.max_box_acc import boxes_of
from service.evaluation.pointing_game import TOLERANCE
from service.imaging.sampling import resample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.imaging.geometry import Geometry
    from service.placement import Placement

__all__ = ["Picture", "Samples", "Truth", "truth_of_boxes", "truth_of_mask"]

_SAMPLES = 160  # along the longer side of the view, and no more than there are pixels


@dataclass(frozen=True, eq=False)
class Samples:
    """Where maps and masks are compared: places of the picture, as the model saw it.

    Attributes:
        xs: columns (n,), in pixels of the picture.
        ys: rows (m,), likewise.
    """

    xs: NDArray[np.float64]
    ys: NDArray[np.float64]

    @classmethod
    def of(cls, geometry: Geometry) -> Samples:
        """Spread them evenly over what the model saw."""
        view = geometry.view
        step = max(1.0, max(view.width, view.height) / _SAMPLES)
        return cls(_centres(view.left, view.right, step), _centres(view.top, view.bottom, step))

    @property
    def pitch(self) -> tuple[float, float]:
        """Pixels of the picture from one column, and one row, to the next."""
        return _pitch(self.xs), _pitch(self.ys)

    def read(self, values: NDArray[Any], placement: Placement, geometry: Geometry) -> NDArray[np.float32]:
        """Return a map (h, w) at these places: (m, n)."""
        xs, ys = geometry.to_model(self.xs, self.ys)
        return resample(values, placement.x.to_cells(xs), placement.y.to_cells(ys))


def _centres(low: float, high: float, step: float) -> NDArray[np.float64]:
    count = max(1, round((high - low) / step))
    return low + (np.arange(count) + 0.5) * (high - low) / count


def _pitch(places: NDArray[np.float64]) -> float:
    return float(places[1] - places[0]) if len(places) > 1 else 1.0


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known to be where, at the samples of a picture.

    Attributes:
        mask: the objects together, (m, n).
        boxes: the box of each (k, 4), in samples: column i covers [i, i + 1).
        tolerance: of the pointing game, in samples.
        outlined: whether the mask is their outline, and not only their boxes.
    """

    mask: NDArray[np.bool_]
    boxes: NDArray[np.float64]
    tolerance: float
    outlined: bool


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture.

    Attributes:
        name: its path from the folder.
        pixels: the model's input, (h, w, channels) uint8.
        geometry: where that lies on the picture.
        named: the class that its folder's name means, if it means one.
        truths: by the class that the objects belong to; under None what belongs to any.
    """

    name: str
    pixels: NDArray[np.uint8]
    geometry: Geometry
    named: int | None
    truths: dict[int | None, Truth]

    def truth(self, label: int) -> Truth | None:
        """Return where the objects of a class are; None where that is not known."""
        return self.truths.get(label, self.truths.get(None))


def truth_of_mask(mask: NDArray[np.bool_], geometry: Geometry) -> Truth | None:
    """Return the truth of a mask (height, width) of the picture; None where the model sees nothing of the object."""
    samples = Samples.of(geometry)
    columns = np.clip(samples.xs.astype(np.intp), 0, mask.shape[1] - 1)
    rows = np.clip(samples.ys.astype(np.intp), 0, mask.shape[0] - 1)
    seen = mask[np.ix_(rows, columns)]
    if not seen.any():
        return None
    return Truth(seen, boxes_of(seen), TOLERANCE / max(samples.pitch), outlined=True)


def truth_of_boxes(boxes: Sequence[tuple[float, float, float, float]], geometry: Geometry) -> Truth | None:
    """Return the truth of boxes (left, top, right, bottom) in pixels; None where the model sees nothing of them."""
    samples, view = Samples.of(geometry), geometry.view
    across, down = samples.pitch
    placed = (np.array(boxes, np.float64).reshape(-1, 4) - [view.left, view.top] * 2) / [across, down, across, down]
    height, width = len(samples.ys), len(samples.xs)
    clipped = np.clip(placed, 0, [width, height, width, height])
    kept = clipped[(clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])]
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in kept:
        mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return Truth(mask, kept, TOLERANCE / max(across, down), outlined=False) if len(kept) else None
