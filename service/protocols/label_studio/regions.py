"""What a model says of a picture, as results of the project's controls."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from service.areas import levels_of
from service.labelling.masks import alpha_png
from service.labelling.rle import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from service.engine.answers import ImageAnswer, MapAnswer
    from service.imaging.regions import Region
    from service.labelling.labels import Meaning
    from service.protocols.label_studio.config import Control
    from service.vocabulary import Output

__all__ = ["OUTPUTS", "REGIONS", "Choice", "Looked", "Size", "area_result", "choose", "results_for"]

# What each control needs of an explanation.
OUTPUTS: Mapping[str, tuple[Output, ...]] = {
    "rectanglelabels": ("regions",),
    "polygonlabels": ("regions",),
    "brushlabels": ("mask",),
    "bitmasklabels": ("mask",),
    "keypointlabels": (),
}
REGIONS = frozenset(OUTPUTS)
_MAX_REGIONS = 20
_TEXTS = 5
_KEYPOINT_WIDTH = 0.5  # per cent of the picture, as the editor draws them
_LIKELY = 0.5


@dataclass(frozen=True)
class Choice:
    """A label that fits a picture, how likely it is, and the likeliest of the classes that it means."""

    label: str
    probability: float
    index: int


@dataclass(frozen=True)
class Size:
    """Of the upright picture, in pixels; and which of a list of pictures it is, if it is one of them."""

    width: int
    height: int
    item: int | None = None

    def result(self, control: Control, score: float, value: dict[str, Any]) -> dict[str, Any]:
        """Return a result of a control."""
        found: dict[str, Any] = {
            "id": secrets.token_hex(5),
            "from_name": control.name,
            "to_name": control.image,
            "type": control.type,
            "value": value,
            "score": score,
        }
        if control.type in REGIONS:
            found |= {"original_width": self.width, "original_height": self.height, "image_rotation": 0}
        if self.item is not None and (control.type in REGIONS or control.per_item):
            found["item_index"] = self.item
        return found


def choose(
    meanings: Sequence[Meaning], probabilities: Mapping[int, float], control: Control, *, independent: bool
) -> list[Choice]:
    """Return the labels of a control that fit, likeliest first.

    That is the likeliest one; where classes do not exclude each other, or the control says from which probability on,
    all that are likely enough.

    Args:
        meanings: its labels and their classes.
        probabilities: of all classes of the model.
        control: it.
        independent: whether several classes may be there at once.
    """
    choices = [
        Choice(
            each.label.value,
            _together([probabilities[index] for index in each.classes], independent=independent),
            max(each.classes, key=probabilities.__getitem__),
        )
        for each in meanings
        if each.classes
    ]
    choices.sort(key=lambda choice: -choice.probability)
    if control.type == "choices" and not control.several:
        return choices[:1]
    if control.threshold is None and not independent:
        return choices[:1]
    least = _LIKELY if control.threshold is None else control.threshold
    return [choice for choice in choices if choice.probability >= least]


def _together(probabilities: Sequence[float], *, independent: bool) -> float:
    """Return how likely it is that one of several classes is there."""
    return max(probabilities) if independent else min(1.0, sum(probabilities))


@dataclass(frozen=True)
class Looked:
    """A picture, looked at.

    Attributes:
        answer: what the engine said of it, with the probabilities of all classes.
        maps: explanations, by class.
        size: of the picture.
    """

    answer: ImageAnswer
    size: Size
    maps: Mapping[int, MapAnswer] = field(default_factory=dict)


def results_for(control: Control, choices: Sequence[Choice], looked: Looked, threshold: float) -> list[dict[str, Any]]:
    """Return the results of a control for a picture. Reads masks: its time grows with the picture.

    Args:
        control: it.
        choices: its labels that fit.
        looked: the picture.
        threshold: share of the map's maximum above which a binary mask lies.
    """
    size = looked.size
    if control.type == "choices":
        labels = [choice.label for choice in choices]
        return [size.result(control, choices[0].probability, {"choices": labels})] if labels else []
    if control.type == "textarea":
        best = looked.answer.predictions[:_TEXTS]
        lines = [f"{each.label} {each.probability:.2f}" for each in best]
        return [size.result(control, best[0].probability, {"text": lines})] if lines else []
    return [result for choice in choices for result in _of_map(control, choice, looked, threshold)]


def _of_map(control: Control, choice: Choice, looked: Looked, threshold: float) -> list[dict[str, Any]]:
    drawn = looked.maps.get(choice.index)
    if drawn is None or drawn.summary.reason is not None:
        return []  # nothing speaks for it anywhere
    if control.type in {"brushlabels", "bitmasklabels"}:
        assert drawn.rendered.mask is not None
        levels = levels_of(drawn.rendered.mask.data, looked.size.width, looked.size.height)
        return [area_result(control, choice, looked.size, levels, levels >= max(1.0, 255 * threshold))]
    size = looked.size
    if control.type == "keypointlabels":
        peak = drawn.rendered.peak
        return (
            [] if peak is None else [size.result(control, choice.probability, _keypoint(peak.x, peak.y, choice, size))]
        )
    value = _rectangle if control.type == "rectanglelabels" else _polygon
    regions = (drawn.rendered.regions or [])[:_MAX_REGIONS]
    return [size.result(control, choice.probability, value(region, choice, size)) for region in regions]


def area_result(
    control: Control, choice: Choice, size: Size, levels: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> dict[str, Any]:
    """Return the result of a brush, which is the mask, or of a bitmask, which is as opaque as the map is high."""
    value: dict[str, Any]
    if control.type == "brushlabels":
        value = {"format": "rle", "rle": encode(mask), "brushlabels": [choice.label]}
    else:
        png = base64.b64encode(alpha_png(levels)).decode("ascii")
        value = {"imageDataURL": f"data:image/png;base64,{png}", "bitmasklabels": [choice.label]}
    return size.result(control, choice.probability, value)


def _rectangle(region: Region, choice: Choice, size: Size) -> dict[str, Any]:
    box = region.box
    left, top = _percent(box.left, size.width), _percent(box.top, size.height)
    return {
        "x": left,
        "y": top,
        "width": _percent(box.right, size.width) - left,
        "height": _percent(box.bottom, size.height) - top,
        "rotation": 0,
        "rectanglelabels": [choice.label],
    }


def _polygon(region: Region, choice: Choice, size: Size) -> dict[str, Any]:
    points = [[_percent(x, size.width), _percent(y, size.height)] for x, y in region.polygon]
    return {"points": points, "closed": True, "polygonlabels": [choice.label]}


def _keypoint(x: float, y: float, choice: Choice, size: Size) -> dict[str, Any]:
    return {
        "x": _percent(x, size.width),
        "y": _percent(y, size.height),
        "width": _KEYPOINT_WIDTH,
        "keypointlabels": [choice.label],
    }


def _percent(pixels: float, of: int) -> float:
    return min(100.0, max(0.0, 100 * pixels / of))
