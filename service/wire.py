"""The native API's requests and responses, shared by server and client. Field names are a firm contract."""

from __future__ import annotations

from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model
from pydantic_core import PydanticCustomError

from service.options import OPTIONS
from service.vocabulary import (
    Activation,
    ChannelOrder,
    ColormapKind,
    Decoding,
    EmptyReason,
    Fitting,
    LayerKind,
    LoadingStage,
    MayManage,
    ModelState,
    Precision,
    Registration,
    VersionState,
)
from service.wire_verification import Verification  # noqa: TC001  # pydantic looks for it here

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from service.options import Option

__all__ = [
    "AliasEntry",
    "AliasList",
    "AliasTarget",
    "ArrayData",
    "BoxData",
    "ClassEntry",
    "ClassList",
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
    "InputSize",
    "LayerEntry",
    "LayerList",
    "MethodEntry",
    "MethodList",
    "ModelEntry",
    "ModelList",
    "ModelReference",
    "NativeOptions",
    "NativeRequest",
    "PictureResult",
    "PointData",
    "PrecisionCheck",
    "PredictOptions",
    "PredictRequest",
    "Prediction",
    "Preprocessing",
    "Problem",
    "Readiness",
    "RegionData",
    "ScoreData",
    "Status",
    "Timing",
    "Version",
    "VersionEntry",
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


class PrecisionCheck(_Answer):
    """How near the model in bfloat16 came to itself in float32 when it was loaded: of several heads, the worst."""

    pictures: int = Field(description="How many it was tried with.")
    method: str | None = Field(description="What made the maps, at the default layer; null where there are none.")
    correlation: float | None = Field(description="Pearson's, of a picture's two maps, on average.")
    lowest_correlation: float | None = Field(description="The least of them.")
    same_cell: float | None = Field(description="Share of the pictures whose map is strongest in the same cell.")
    same_class: float = Field(description="Share of those whose best class is the same.")
    logits_apart: float = Field(description="Largest difference of two logits, as a share of the largest.")


class InputSize(_Answer):
    """A model's input, in pixels."""

    height: int
    width: int


class Preprocessing(_Answer):
    """How a picture becomes the model's input."""

    mode: Fitting
    resize: int | None = Field(description="Shorter side before the centre crop.")
    interpolation: str
    decoding: Decoding = Field("full", description="`reduced`: large JPEGs are decoded at a part of their size.")
    scale: float = Field(description="What a pixel (0–255) is multiplied by, before mean and std.")
    mean: list[float] = Field(description="Per channel of the input, in the model's order, of scaled pixels.")
    std: list[float]


class ModelWarning(_Answer):
    """What was assumed of a model, or looks wrong."""

    code: str = Field(description="Stable, for programs.")
    text: str = Field(description="A sentence, with the way out.")


class VersionEntry(_Answer):
    """A version of a model that is there or on its way."""

    version: str | None = Field(description="Its label; null until the weights are read.")
    state: VersionState
    reason: str | None = Field(description="Why it failed.")
    progress: float = Field(description="How much of loading is done, 0 to 1; it never falls.")
    stage: LoadingStage | None = Field(None, description="What is being done, while it is being loaded.")
    current: bool = Field(description="Whether requests that name no version go to it.")
    aliases: list[str] = Field([], description="The other names that point to it.")


class ModelEntry(_Answer):
    """A served model. What is known only once it is loaded is null before."""

    name: str
    state: ModelState
    reason: str | None = Field(description="Why it failed.")
    versions: list[VersionEntry] = Field([], description="Those that are there or on their way, oldest first.")
    default: bool = Field(description="Whether requests that name no model go to it.")
    version: str | None = None
    digest: str | None = Field(None, description="Of its weights and configuration: what answers depend on.")
    source: str | None = Field(None, description="What read it, such as `torchvision`.")
    architecture: str
    input: InputSize | None = None
    preprocessing: Preprocessing | None = None
    classes: int | None = None
    default_layer: str | None = None
    methods: list[str] = Field([], description="Methods that apply to this model.")
    refused_methods: dict[str, str] = Field({}, description="The others, with the reason.")
    channels: int | None = Field(
        None, description="Of the input: 3 for colours, 1 for grey; others are those that a picture has."
    )
    order: ChannelOrder | None = Field(None, description="In which order it takes the colours.")
    prompts: str | None = Field(
        None,
        description="What makes a sentence of a label, with `{}` for it, of a zero-shot model: requests may bring "
        "`labels` of their own. Null where the classes are fixed.",
    )
    activation: Activation | None = Field(
        None, description="What makes probabilities of its outputs; `none` where they are probabilities already."
    )
    multi_label: bool = Field(False, description="Classes do not exclude each other.")
    heads: dict[str, int] = Field({}, description="Of a model with several outputs: name and number of classes.")
    default_head: str | None = None
    device: str | None = None
    dtype: str | None = None
    precision: Precision | None = Field(None, description="What it computes in.")
    precision_asked: Precision | Literal["auto"] | None = Field(None, description="What its configuration asks for.")
    precision_reason: str | None = Field(None, description="Why it does not compute in bfloat16, where it might have.")
    precision_check: PrecisionCheck | None = Field(
        None, description="What comparing bfloat16 with float32 has shown, where that was done."
    )
    folded: bool | None = Field(
        None,
        description="Whether its convolutions compute what comes next, too: normalisations, activations, additions. "
        "That was compared with the modules as they are.",
    )
    folded_reason: str | None = Field(None, description="Why not.")
    parts: int | None = Field(
        None, description="In how many parts a batch is computed, side by side, on a CPU; 1 where it is a whole."
    )
    parts_reason: str | None = Field(
        None, description="Why batches are computed as a whole; null while that is being found out, after loading."
    )
    parameters: int | None = None
    memory_bytes: int | None = Field(
        None,
        description="What it takes on its device with each worker: weights and buffers, as they were loaded and as a "
        "CPU computes them best.",
    )
    warnings: list[ModelWarning] = Field([], description="What was assumed of it, or looks wrong.")


class ModelList(_Answer):
    """All served models."""

    default: str
    management: MayManage = Field(
        "off",
        description="Whether you may change models: `forbidden` with this API key, or `off` for everybody.",
    )
    models: list[ModelEntry]


class AliasTarget(_Strict):
    """What an alias is to point to."""

    model: str = Field(description="The model's name.", max_length=200)
    version: str = Field(description="The label of a version of it that is ready.", max_length=200)


class AliasEntry(_Answer):
    """An alias."""

    alias: str
    model: str
    version: str | None = Field(description="The label of the version that it points to.")


class AliasList(_Answer):
    """All aliases."""

    aliases: list[AliasEntry]


class LayerPlacement(_Answer):
    """Where the cells of a layer look, in pixels of the model's input."""

    x: tuple[float, float] = Field(description="[start, step]: the first column's centre, and from one to the next.")
    y: tuple[float, float] = Field(description="The same for rows.")
    residual: float | None = Field(description="How far centres lie from that, root mean square.")
    by: Registration = Field(description="Measured when the model was loaded, or stretched over the input.")


class LayerEntry(_Answer):
    """One row of the layer catalogue."""

    name: str
    type: str
    kind: LayerKind
    shape: list[int] = Field(description="[channels, height, width] of the output for one picture.")
    stride: int | None = Field(description="Input pixels per row of the grid.")
    order: int = Field(description="Position in the forward pass.")
    explainable: bool
    recommended: bool
    placement: LayerPlacement | None = Field(description="Where its cells look; null where it has no rows and columns.")
    note: str | None = Field(description="Why it cannot be explained, or what to keep in mind.")


class LayerList(_Answer):
    """A model's layers, in forward order."""

    model: str
    input: InputSize
    default: str
    layers: list[LayerEntry]


class ClassEntry(_Answer):
    """A class of a model."""

    index: int
    label: str


class ClassList(_Answer):
    """Classes whose label contains the query."""

    model: str
    total: int = Field(description="Classes of the model.")
    classes: list[ClassEntry]


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
