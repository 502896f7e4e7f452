"""What the client returns: typed, with pictures and maps decoded on demand."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from service import wire
    from service.client.errors import ClientError
    from service.wire_verification import Verification

__all__ = ["Explained", "ExplanationView", "Failed", "Predicted"]

T = TypeVar("T")


class _Evidence:
    """What can be read off one explanation. Pictures and maps are decoded each time they are asked for."""

    @property
    def _raw(self) -> wire.Explanation:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Label of the target."""
        return self._raw.target.label

    @property
    def probability(self) -> float:
        """Probability of the target."""
        return self._raw.target.probability

    @property
    def peak(self) -> wire.PointData | None:
        """Centre of the hottest cell in the upright picture's pixels; None for an empty map."""
        return self._raw.peak

    @property
    def regions(self) -> tuple[wire.RegionData, ...]:
        """Areas above the threshold (``output="regions"``)."""
        return tuple(_requested("regions", self._raw.regions))

    def heatmap(self) -> PIL.Image.Image:
        """Return the coloured map, transparent where the model did not look (``output="heatmap"``)."""
        return _image(_requested("heatmap", self._raw.heatmap))

    def overlay(self) -> PIL.Image.Image:
        """Return the map blended on the picture (``output="overlay"``)."""
        return _image(_requested("overlay", self._raw.overlay))

    def mask(self) -> PIL.Image.Image:
        """Return the map as an 8-bit grey picture (``output="mask"``)."""
        return _image(_requested("mask", self._raw.mask))

    def hidden(self) -> PIL.Image.Image:
        """Return the picture without what the map calls important (``output="hidden"``)."""
        return _image(_requested("hidden", self._raw.hidden))

    @property
    def verification(self) -> Verification | None:
        """The map put to the proof (``verify=True``); its ``text`` says it in a sentence."""
        return self._raw.verification

    def map(self) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        """Return the raw map at the layer's resolution, as an array of your own (``output="map"``)."""
        import numpy as np  # noqa: PLC0415 -- the client works without numpy until a map is asked for

        array = _requested("map", self._raw.map)
        height, width = array.shape
        return np.frombuffer(base64.b64decode(array.data), "<f4").astype(np.float32).reshape(height, width)


def _requested(output: str, value: T | None) -> T:
    if value is None:
        raise ValueError(f"The explanation has no {output}, since it was not asked for: add {output!r} to output=.")
    return value


def _image(encoded: wire.EncodedPicture) -> PIL.Image.Image:
    from PIL import Image  # noqa: PLC0415 -- the client works without Pillow until a picture is asked for

    image = Image.open(io.BytesIO(base64.b64decode(encoded.data)))
    image.load()
    if image.mode == "P":  # how a heatmap travels, not how anybody wants to work with it
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image


@dataclass(frozen=True, repr=False)
class ExplanationView(_Evidence):
    """Where one layer saw evidence for one class, by one method."""

    layer: str
    method: str
    target: wire.ExplanationTarget
    against: wire.ExplanationTarget | None
    empty: bool
    maximum: float
    raw: wire.Explanation

    @property
    def scores(self) -> wire.ScoreData | None:
        """What says whether a person should look at it (``output="scores"``)."""
        return self.raw.scores

    def __repr__(self) -> str:
        against = f", against={self.against.label!r}" if self.against else ""
        return f"ExplanationView({self.label!r}{against}, layer={self.layer!r}, method={self.method!r})"

    @property
    def _raw(self) -> wire.Explanation:
        return self.raw


@dataclass(frozen=True, repr=False)
class Predicted:
    """One picture's classes, best first; ``scores`` of its prediction if they were asked for (``scores=True``)."""

    model: wire.ModelReference
    image: wire.ImageInfo
    view: wire.BoxData | None
    predictions: tuple[wire.Prediction, ...]
    scores: wire.ScoreData | None
    timing: wire.Timing = field(compare=False)
    cost: wire.RequestCost = field(compare=False)
    precision: str
    request_id: str = field(compare=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.image.filename!r}, {self.label!r}, probability={self.probability:.3g})"

    @property
    def label(self) -> str:
        """Label of the best class."""
        return self.predictions[0].label

    @property
    def probability(self) -> float:
        """Probability of the best class."""
        return self.predictions[0].probability


@dataclass(frozen=True, repr=False)
class Explained(_Evidence, Predicted):
    """One picture's classes and explanations; ``label``, ``scores``, ``overlay()`` … are those of the first one."""

    explanations: tuple[ExplanationView, ...]

    @property
    def _raw(self) -> wire.Explanation:
        return self.explanations[0].raw


@dataclass(frozen=True)
class Failed:
    """One of several pictures that has no answer, in the place where its answer would be."""

    image: wire.ImageInfo
    error: ClientError
