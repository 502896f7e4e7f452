"""What an export keeps of one picture, whatever file it ends in: classes, and areas of the picture for each."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict

from service.areas import Area, area_of, levels_in, levels_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from service import wire

__all__ = ["Heat", "Record", "Score", "Shape", "record_of"]

_HEAT_SIDE = 256  # longest side of a heatmap's grid: finer than any layer, and small


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Score(_Kept):
    """A class, and its probability for the picture."""

    index: int
    label: str
    probability: float


class Shape(_Kept):
    """An area that speaks for a class.

    Attributes:
        target: the class.
        layer: where the map is from.
        method: by which it was made.
        score: its highest value, as a share of the map's maximum.
        box: left, top, right and bottom of its outline, in pixels of the picture.
        polygon: its outline.
        corner: left and top of its mask; None without one.
        mask: a black and white PNG in base64.
    """

    target: Score
    layer: str
    method: str
    score: float
    box: tuple[float, float, float, float]
    polygon: list[tuple[float, float]]
    corner: tuple[int, int] | None = None
    mask: str | None = None

    def area(self) -> Area | None:
        """Return its pixels; None without a mask."""
        if self.mask is None or self.corner is None:
            return None
        with Image.open(io.BytesIO(base64.b64decode(self.mask))) as image:
            bits = np.asarray(image.convert("1"))
        return Area(*self.corner, bits)


class Heat(_Kept):
    """A heatmap on a small grid over the whole picture.

    Attributes:
        target: the class.
        layer: where it is from.
        method: by which it was made.
        png: grey, in base64: 0 is nothing, 255 the map's maximum.
    """

    target: Score
    layer: str
    method: str
    png: str

    def levels(self) -> NDArray[np.uint8]:
        """Return it as an array, (h, w)."""
        return levels_in(self.png)


class Record(_Kept):
    """What is kept of one picture.

    Attributes:
        file: its path, from the exported folder, with ``/``.
        width: of the upright picture, in pixels.
        height: likewise.
        predictions: its classes, best first.
        shapes: areas that speak for the classes that were explained.
        heats: heatmaps, where the format has room for them.
        error: why there is nothing to say of it.
    """

    file: str
    width: int = 0
    height: int = 0
    predictions: list[Score] = []
    shapes: list[Shape] = []
    heats: list[Heat] = []
    error: str | None = None


def record_of(
    file: str,
    image: wire.ImageInfo,
    predictions: Sequence[wire.Prediction],
    explanations: Sequence[wire.Explanation],
    *,
    masks: float | None = None,
    heat: bool = False,
) -> Record:
    """Keep what is needed of an answer.

    Args:
        file: its path, from the exported folder.
        image: the answer's picture.
        predictions: its classes.
        explanations: with regions; with their mask, too, where masks or heatmaps are kept.
        masks: the threshold of the regions, if a mask of each is kept.
        heat: whether heatmaps are kept.
    """
    return Record(
        file=file,
        width=image.width,
        height=image.height,
        predictions=[_score(each) for each in predictions],
        shapes=[shape for each in explanations for shape in _shapes(each, image, masks)],
        heats=[_heat(each) for each in explanations] if heat else [],
    )


def _score(score: wire.Prediction | wire.ExplanationTarget) -> Score:
    return Score(index=score.index, label=score.label, probability=score.probability)


def _shapes(explanation: wire.Explanation, image: wire.ImageInfo, threshold: float | None) -> Iterator[Shape]:
    regions = explanation.regions or ()
    levels = None
    if threshold is not None and regions and explanation.mask is not None:
        levels = levels_of(base64.b64decode(explanation.mask.data), image.width, image.height)
    for region in regions:
        box = region.box
        shape = Shape(
            target=_score(explanation.target),
            layer=explanation.layer,
            method=explanation.method,
            score=region.score,
            box=(box.left, box.top, box.right, box.bottom),
            polygon=region.polygon,
        )
        if levels is None or threshold is None:
            yield shape
        elif area := area_of(levels, region.polygon, threshold):
            mask = _png(Image.fromarray(area.bits))
            yield shape.model_copy(update={"corner": (area.left, area.top), "mask": mask})


def _heat(explanation: wire.Explanation) -> Heat:
    assert explanation.mask is not None, "the mask was not asked for"
    with Image.open(io.BytesIO(base64.b64decode(explanation.mask.data))) as image:
        grey = image.convert("L")
    grey.thumbnail((_HEAT_SIDE, _HEAT_SIDE), Image.Resampling.BOX)
    target = _score(explanation.target)
    return Heat(target=target, layer=explanation.layer, method=explanation.method, png=_png(grey))


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
