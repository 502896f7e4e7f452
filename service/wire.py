"""The native API's requests and responses, shared by server and client. Field names are a firm contract."""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from service.options import OPTIONS
from service.vocabulary import (
    ColormapKind,
    EmptyReason,
    ModelState,
    Precision,
)
from service.wire_verification import Verification  # noqa: TC001  # pydantic looks for it here

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from service.options import Option

__all__ = [
    "ArrayData",
    "BoxData",
    "ColormapEntry",
    "ColormapList",
    "EncodedPicture",
    "ExplainOptions",
    "ExplainRequest",
    "ExplainResponse",
    "Explanation",
    "ExplanationTarget",
    "ImageInfo",
    "ImageInput",
    "MethodEntry",
    "MethodList",
    "ModelReference",
    "NativeOptions",
    "NativeRequest",
    "PictureResult",
    "PointData",
    "PredictOptions",
    "PredictRequest",
    "Prediction",
    "Problem",
    "Readiness",
    "RegionData",
    "ScoreData",
    "Status",
    "Timing",
    "Version",
]


def _listed(value: object) -> object:
    """Accept one value where a list of them is meant."""
    return [value] if isinstance(value, str | int | float) else value


def _not_boolean(value: object) -> object:
    """Refuse JSON's true and false where a number is meant; in Python they are 1 and 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "input should not be true or false")
    return value


# What one value of an option is read as, where pydantic's own way is too lenient.
_STRICTER: Mapping[Any, Any] = {
    int: Annotated[int, BeforeValidator(_not_boolean)],
    float: Annotated[float, BeforeValidator(_not_boolean)],
    int | str: Annotated[int | str, BeforeValidator(_not_boolean)],
}


class _Strict(BaseModel):
    """Refuses what it does not know: a misspelt option must not be ignored in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NativeOptions(_Strict):
    """Options of a request; their fields follow from the table of options."""

    def given(self) -> dict[str, Any]:
        """Return the options that the caller gave, by name."""
        return {name: getattr(self, name) for name in self.model_fields_set & OPTIONS.keys()}


class ImageInput(_Strict):
    """One picture in a JSON request."""

    b64: str = Field(description="The file's bytes in base64; a data URI is accepted.", examples=["iVBORw0KGgo…"])
    filename: str | None = Field(None, max_length=1024, description="Comes back with the answer.")


class NativeRequest(NativeOptions):
    """A request in JSON, whatever its options."""

    images: list[ImageInput] = Field(description="The pictures.")


def _field(option: Option) -> tuple[Any, Any]:
    """Return an option's annotation and its field."""
    about, value = option.about, _STRICTER.get(option.type, option.type)
    if option.repeatable:
        each = value if about.longest is None else Annotated[value, Field(max_length=about.longest)]
        least = min(1, len(option.default))  # none at all is what nobody has to say
        value = Annotated[
            GenericAlias(list, each), BeforeValidator(_listed), Field(min_length=least, max_length=about.most)
        ]
    return value | None if option.nullable else value, Field(
        list(option.default) if option.repeatable else option.default,
        ge=about.low,
        le=about.high,
        max_length=None if option.repeatable else about.longest,
        description=option.describe(methods="`GET /api/v1/methods`", colormaps="`GET /api/v1/colormaps`"),
        examples=list(about.examples) or None,
    )


def _fields(options: Iterable[Option]) -> dict[str, Any]:
    return {option.name: _field(option) for option in options}


PredictOptions = create_model(
    "PredictOptions",
    __base__=NativeOptions,
    __doc__="Options of ``predict``; part of those of ``explain``.",
    **_fields(option for option in OPTIONS.values() if option.about.predict),
)
ExplainOptions = create_model(
    "ExplainOptions", __base__=NativeOptions, __doc__="Options of ``explain``.", **_fields(OPTIONS.values())
)


class PredictRequest(NativeRequest, PredictOptions):
    """The JSON form of a ``predict`` request."""


class ExplainRequest(NativeRequest, ExplainOptions):
    """The JSON form of an ``explain`` request."""


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ModelReference(_Answer):
    """Which model answered."""

    name: str
    version: str


class ImageInfo(_Answer):
    """A picture as it was received; sizes are those of the upright picture."""

    index: int = Field(description="Position in the request, from 0.")
    filename: str | None
    width: int = Field(description="0 where the picture could not be read.")
    height: int
    sha256: str = Field(description="Of the bytes received.")


class BoxData(_Answer):
    """A rectangle in the upright picture's pixels; pixel i covers i to i + 1."""

    left: float
    top: float
    right: float
    bottom: float


class PointData(_Answer):
    """A place in the upright picture, in its pixels."""

    x: float
    y: float


class Prediction(_Answer):
    """One class of the top k."""

    rank: int = Field(description="From 1.")
    index: int
    label: str
    probability: float = Field(description="What the model's `activation` makes of the logits.")
    logit: float = Field(description="The model's output for this class, which is the score that is explained.")


class ExplanationTarget(_Answer):
    """The class that was explained, or explained against."""

    index: int
    label: str
    probability: float
    logit: float


class EncodedPicture(_Answer):
    """A picture in base64."""

    media_type: str
    width: int
    height: int
    data: str


class ArrayData(_Answer):
    """An array in base64: little-endian, C order."""

    dtype: Literal["float32"] = "float32"
    shape: list[int]
    data: str


class RegionData(_Answer):
    """A connected area above the threshold, in the upright picture's pixels."""

    box: BoxData
    polygon: list[tuple[float, float]]
    score: float = Field(description="Highest value inside, as a share of the map's maximum.")
    area: float = Field(description="Share of the picture's area.")


class ScoreData(_Answer):
    """What says whether a person should look at a picture; null where there is no such number."""

    entropy: float | None = Field(
        None,
        description="Of the prediction, 0–1: 0 is sure, 1 says that all classes are equally likely. Where classes do "
        "not exclude each other, the mean over them.",
    )
    margin: float | None = Field(None, description="Probability of the best class, less that of the second.")
    mass_inside: float | None = Field(None, description="Share of the map that lies inside the request's `region`.")
    flip_stability: float | None = Field(
        None, description="Pearson's r of the map and that of the mirror image, turned back."
    )
    layer_agreement: float | None = Field(
        None, description="Pearson's r of the map and that of the other layer; with more of them, the mean."
    )


class Explanation(_Answer):
    """Where one layer saw evidence for one class, by one method. What was not asked for is null."""

    layer: str
    method: str
    target: ExplanationTarget
    against: ExplanationTarget | None
    empty: bool = Field(description="The map shows nothing; `reason` says why.")
    reason: EmptyReason | None = Field(
        None,
        description="Of an empty map: nothing is positive, or the score does not depend on the layer at all, or every "
        "position has the same value.",
    )
    note: str | None = Field(None, description="What to keep in mind: little evidence, a method without a class …")
    signed: bool = Field(
        False, description="Values below zero are drawn, too: a mask's 128 is zero, 0 and 255 the greatest magnitude."
    )
    minimum: float | None = Field(None, description="Lowest value of the raw map.")
    maximum: float = Field(description="Highest value of the raw map.")
    sum: float | None = Field(None, description="Sum of the raw map.")
    peak: PointData | None = Field(description="Centre of the hottest cell; null where nothing is positive.")
    heatmap: EncodedPicture | None = None
    overlay: EncodedPicture | None = None
    mask: EncodedPicture | None = None
    map: ArrayData | None = Field(None, description="The method's raw values at the layer's resolution.")
    regions: list[RegionData] | None = None
    hidden: EncodedPicture | None = Field(
        None, description="The picture without what the map calls important, as `verify` hides it."
    )
    scores: ScoreData | None = None
    verification: Verification | None = Field(None, description="Null unless asked for (`verify`).")


class Problem(BaseModel):
    """An error (RFC 9457), served as ``application/problem+json``."""

    model_config = ConfigDict(extra="allow", frozen=True)

    type: str = Field(description="Where the error is explained.")
    title: str
    status: int
    code: str = Field(description="Stable, machine-readable.")
    detail: str = Field(description="What went wrong here, and what to do.")
    request_id: str
    suggestions: list[str] | None = Field(None, description="For an unknown name: the closest ones.")


class PictureResult(_Answer):
    """One picture's answer."""

    image: ImageInfo
    view: BoxData | None = Field(description="The part of the picture that the model saw.")
    predictions: list[Prediction]
    scores: ScoreData | None = Field(
        None, description="Entropy and margin of the prediction; null unless asked for (`scores`)."
    )
    explanations: list[Explanation]
    error: Problem | None = Field(
        None, description="Why this picture has no answer. The others of the request have theirs."
    )


class Timing(_Answer):
    """Where the time went, in milliseconds; with several pictures, of the slowest in each stage."""

    total_ms: float
    decode_ms: float
    queue_ms: float
    compute_ms: float
    render_ms: float
    batch_size: int = Field(description="Pictures in the batch, those of other requests included.")


class RequestCost(_Answer):
    """What the request cost, all its pictures together."""

    forward: float = Field(
        description="Passes of the model over one picture; what comes after a layer is a part of one."
    )
    pixels: int = Field(description="Pixels decoded and drawn.")
    bytes: int = Field(description="Bytes of explanations in the answer.")


class ExplainResponse(_Answer):
    """The answer of ``explain`` and, without explanations, of ``predict``."""

    id: str = Field(description="The request id, also in the header X-Request-ID.")
    model: ModelReference
    results: list[PictureResult]
    timing: Timing
    cost: RequestCost
    precision: Precision = Field(description="What the model computed in.")


class MethodEntry(_Answer):
    """One row of the method table."""

    name: str
    title: str
    summary: str
    paper: str
    needs_gradients: bool
    class_specific: bool = Field(description="Whether different classes get different maps.")
    signed: bool = Field(True, description="Whether `signed=true` is possible.")
    uses_layer: bool = Field(True, description="Whether the layer matters; otherwise the map is of the whole network.")
    forwards: float | None = Field(
        description="Rough cost per picture in forward passes; null where it grows with the number of channels."
    )


class MethodList(_Answer):
    """All methods."""

    default: str
    methods: list[MethodEntry]


class ColormapEntry(_Answer):
    """A colormap."""

    name: str
    kind: ColormapKind
    table: str = Field("", description="Its 256 colours, cold to warm: RGB bytes in base64.")


class ColormapList(_Answer):
    """All colormaps."""

    default: str
    colormaps: list[ColormapEntry]


class Version(_Answer):
    """What is running."""

    name: str
    version: str
    api: str


class Status(_Answer):
    """The process is alive."""

    status: Literal["alive"]


class Readiness(_Answer):
    """Whether requests can be answered, and by what."""

    status: Literal["ready", "loading", "draining", "unavailable"]
    models: dict[str, ModelState]
    workers: list[dict[str, Any]]
