"""What the engine answers, before any protocol puts it into words.

Runs in the front process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from service.engine.cost import Cost
    from service.engine.map_summary import MapSummary
    from service.errors import ServiceError
    from service.imaging.geometry import Box, Geometry
    from service.imaging.render import Rendered
    from service.models.info import ModelInfo
    from service.placement import Placement
    from service.verification.verdict import Verification

__all__ = ["Answer", "ClassScore", "ImageAnswer", "MapAnswer", "Scores", "StageTimes"]


@dataclass(frozen=True)
class ClassScore:
    """A class of the model, and what the model makes of it for this picture."""

    index: int
    label: str
    probability: float
    logit: float


@dataclass(frozen=True)
class Scores:
    """What says whether a person should look at a picture; None where there is no such number.

    Attributes:
        entropy: of the prediction, in 0–1: 0 is sure, 1 says that all classes are equally likely.
        margin: probability of the best class, less that of the second.
        mass_inside: share of the map that lies inside the region which the request marks.
        flip_stability: Pearson's r of the map and that of the mirror image, turned back.
        layer_agreement: Pearson's r of the map and those of the other layers, on average.
    """

    entropy: float | None = None
    margin: float | None = None
    mass_inside: float | None = None
    flip_stability: float | None = None
    layer_agreement: float | None = None


@dataclass(frozen=True)
class MapAnswer:
    """One explanation.

    Attributes:
        layer: its name; several joined by ``+`` where they were fused.
        method: its name.
        target: the class.
        against: the class it is compared with.
        raw: the method's map at the layer's resolution, (h, w) float32.
        summary: the map in numbers, and why it is empty if it is.
        note: what to keep in mind with it.
        rendered: how it is drawn.
        placement: where its cells look; None where they cover the model's input evenly.
        scores: None unless they were asked for.
        proof: likewise.
    """

    layer: str
    method: str
    target: ClassScore
    against: ClassScore | None
    raw: NDArray[np.float32]
    summary: MapSummary
    note: str | None
    rendered: Rendered
    placement: Placement | None = None
    scores: Scores | None = None
    proof: Verification | None = None


@dataclass(frozen=True)
class StageTimes:
    """Seconds that a picture spent in each stage, and the size of the batch it was in."""

    decode_s: float = 0.0
    queue_s: float = 0.0
    compute_s: float = 0.0
    render_s: float = 0.0
    batch_size: int = 0


@dataclass(frozen=True)
class ImageAnswer:
    """One picture's answer, or the error that it alone ran into.

    Attributes:
        view: the part that the model saw, in the picture's pixels.
        geometry: how the picture became the model's input.
    """

    index: int
    filename: str | None
    sha256: str
    width: int = 0
    height: int = 0
    view: Box | None = None
    geometry: Geometry | None = None
    predictions: tuple[ClassScore, ...] = ()
    explanations: tuple[MapAnswer, ...] = ()
    scores: Scores | None = None
    times: StageTimes = StageTimes()
    error: ServiceError | None = None


@dataclass(frozen=True)
class Answer:
    """The answer to a request: every picture's, in order, and what they cost."""

    model: ModelInfo
    images: tuple[ImageAnswer, ...]
    total_s: float
    cost: Cost
