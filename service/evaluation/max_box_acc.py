"""MaxBoxAccV2: whether the box of something above a threshold is an object's (Choe et al., https://arxiv.org/abs/2001.07437).

The boxes of all contours count, holes as well; the threshold is chosen for each overlap that is asked for, 30, 50 and
70 %, and the three accuracies are averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import contourpy
import numpy as np
import numpy.ma  # contourpy imports it with the first map

from service.evaluation.iou import THRESHOLDS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OVERLAPS", "box_hits", "boxes_of"]

OVERLAPS = (0.3, 0.5, 0.7)


def boxes_of(area: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the bounds (n, 4), as left, top, right and bottom, of all contours of an area (h, w).

    Pixel i covers [i, i + 1).
    """
    height, width = area.shape
    padded = np.pad(area.astype(np.float64), 1)
    columns, rows = np.arange(width + 2) - 0.5, np.arange(height + 2) - 0.5  # centres of pixels
    lines = contourpy.contour_generator(columns, rows, padded, name="serial").lines(0.5)
    bounds = [(*line.min(axis=0), *line.max(axis=0)) for line in cast("list[NDArray[Any]]", lines)]
    return np.array(bounds, np.float64).reshape(-1, 4)


def box_hits(
    evidence: NDArray[Any], truths: NDArray[np.float64], thresholds: NDArray[np.float64] = THRESHOLDS
) -> NDArray[np.bool_]:
    """Return for each of ``OVERLAPS`` and each threshold whether some box overlaps an object's so much: (3, T).

    Args:
        evidence: the map, (h, w), at least 0 everywhere; a zero map never hits.
        truths: the objects' boxes (n, 4) in pixels of the map.
        thresholds: as fractions of the map's maximum.
    """
    highest = float(evidence.max())
    found = np.zeros(len(thresholds))
    if highest > 0:
        scaled = evidence / highest
        for index, threshold in enumerate(thresholds):
            boxes = boxes_of(scaled >= threshold)
            found[index] = _overlaps(boxes, truths).max(initial=0.0)
    return found >= np.array(OVERLAPS)[:, None]


def _overlaps(boxes: NDArray[np.float64], truths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union of all pairs: (boxes, truths)."""
    corners = np.minimum(boxes[:, None, 2:], truths[None, :, 2:]) - np.maximum(boxes[:, None, :2], truths[None, :, :2])
    both = np.maximum(corners, 0).prod(axis=2)
    sizes = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, truths)]
    overlaps: NDArray[np.float64] = both / np.maximum(sizes[0][:, None] + sizes[1][None, :] - both, 1e-12)
    return overlaps
