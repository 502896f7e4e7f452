"""Example maps of a report: every candidate on the same six pictures."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from service.evaluation.gates import correlation
from service.evaluation.pictures import Samples
from service.imaging.canvas import Canvas
from service.imaging.decode import DecodedImage
from service.imaging.geometry import Geometry
from service.imaging.render import RenderSpec, render

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from service.evaluation.asked import Purpose
    from service.evaluation.scores import Scores
    from service.placement import Placement

__all__ = ["Example", "boxes_on", "examples_of", "jpeg", "mean_overlay", "overlay", "shown_picture", "thumbnail"]

_EACH = 2  # best, worst, disagreeing
_ENOUGH = 200  # pictures that are looked at for disagreement
_QUALITY = 85
_SPEC = RenderSpec(("overlay",), size="model", image_format="jpeg", alpha=0.55)


@dataclass(frozen=True)
class Example:
    """A picture of the gallery, by its number, and why it is there."""

    picture: int
    why: str


def examples_of(scores: Scores, arm: int) -> list[Example]:
    """Return two pictures that ``arm`` explains best, two that it explains worst, and two that candidates differ on."""
    marked = bool(scores.ranked_by("localisation"))
    purpose: Purpose = "localisation" if marked else "faithfulness" if scores.ranked_by("faithfulness") else "class"
    values = scores.for_purpose(purpose, f"a{arm}")
    measured = [i for i in np.argsort(-values, kind="stable").tolist() if not np.isnan(values[i])]
    found: dict[int, str] = {}
    for picture in measured[:_EACH]:
        found[picture] = "among the best"
    for picture in reversed(measured[-_EACH:]):
        found.setdefault(picture, "among the worst")
    agreement = _agreement(scores) if len(scores.run.maps.distinct) > 1 else {}
    for picture in sorted(agreement, key=lambda each: agreement[each]):
        if len(found) >= 3 * _EACH:
            break
        found.setdefault(picture, "the maps disagree")
    return [Example(picture, why) for picture, why in found.items()]


def _agreement(scores: Scores) -> dict[int, float]:
    """Return the mean correlation of the candidates' maps of a picture."""
    maps = scores.run.maps
    found = {}
    for picture in scores.run.order[:_ENOUGH]:
        coarse = [maps.at_input(arm, picture)[::4, ::4] for arm in maps.distinct]
        pairs = [correlation(one, other) for one, other in combinations(coarse, 2)]
        found[picture] = float(np.mean(pairs)) if pairs else 0.0
    return found


def overlay(scores: Scores, arm: int, picture: int) -> str:
    """Return a candidate's map on what the model saw of a picture, as the address of a JPEG that holds it."""
    values = scores.run.maps.raw(arm, picture)
    return _laid(scores.run.pictures[picture].pixels, values, scores.run.maps.placement(arm, values.shape))


def mean_overlay(
    scores: Scores, arm: int, pictures: Sequence[int], values: NDArray[Any], *, own_grid: bool = True
) -> str:
    """Return a mean map on the mean of what the model saw of some pictures, as the address of a JPEG that holds it.

    Args:
        scores: of the run.
        arm: the candidate whose maps the mean is of.
        pictures: their numbers.
        values: the mean, (h, w).
        own_grid: whether it is on the grid of the candidate's maps; else it is spread evenly over the input.
    """
    mean = np.zeros(scores.run.pictures[pictures[0]].pixels.shape, np.float64)
    for picture in pictures:
        mean += scores.run.pictures[picture].pixels / len(pictures)
    placement = scores.run.maps.placement(arm, values.shape) if own_grid else None
    return _laid(np.rint(mean).astype(np.uint8), values, placement)


def _laid(pixels: NDArray[np.uint8], values: NDArray[Any], placement: Placement | None) -> str:
    """Return a map on the model's input."""
    geometry = _whole(pixels)
    drawn = render(values, geometry, _SPEC, Canvas(_image(pixels), geometry, "model", 1), placement)
    assert drawn.overlay is not None
    return _address(drawn.overlay.data)


def thumbnail(scores: Scores, picture: int) -> str:
    """Return what the model saw of a picture, as the address of a JPEG that holds it."""
    return jpeg(shown_picture(scores.run.pictures[picture].pixels))


def shown_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Return the model's input (h, w, channels) as a picture."""
    return _image(pixels).rgb


def jpeg(picture: Image.Image) -> str:
    """Return the address of a JPEG that holds a picture."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return _address(stream.getvalue())


def boxes_on(scores: Scores, picture: int) -> NDArray[np.float64]:
    """Return the marked boxes (n, 4) of the predicted class, as left, top, right and bottom, in shares of the input."""
    shown = scores.run.pictures[picture]
    truth = shown.truth(scores.run.maps.classes[picture])
    if truth is None:
        return np.zeros((0, 4))
    samples, geometry = Samples.of(shown.geometry), shown.geometry
    across, down = samples.pitch
    left, top = samples.xs[0] - across / 2, samples.ys[0] - down / 2
    boxes = truth.boxes * [across, down, across, down] + [left, top, left, top]
    xs, ys = geometry.to_model(boxes[:, [0, 2]], boxes[:, [1, 3]])
    xs, ys = xs / geometry.model_width, ys / geometry.model_height
    return np.stack([xs[:, 0], ys[:, 0], xs[:, 1], ys[:, 1]], axis=1)


def _whole(pixels: NDArray[np.uint8]) -> Geometry:
    height, width = pixels.shape[:2]
    return Geometry(width, height, width, height, 1.0, 1.0, 0.0, 0.0)


def _image(pixels: NDArray[np.uint8]) -> DecodedImage:
    """Return the input as a picture: of other channels than three, the mean is shown."""
    grey = pixels.shape[2] != 3
    shown = np.repeat(pixels.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2) if grey else pixels
    return DecodedImage(Image.fromarray(np.ascontiguousarray(shown)), pixels.shape[1], pixels.shape[0], "PNG")


def _address(data: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
