"""What is answered about models, their versions, layers and classes. Field names are a firm contract."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.vocabulary import (
    Activation,
    ChannelOrder,
    Decoding,
    Fitting,
    LayerKind,
    LoadingStage,
    MayManage,
    ModelState,
    Precision,
    Registration,
    VersionState,
)

__all__ = [
    "AliasEntry",
    "AliasList",
    "AliasTarget",
    "ClassEntry",
    "ClassList",
    "InputSize",
    "LayerEntry",
    "LayerList",
    "LayerPlacement",
    "ModelEntry",
    "ModelList",
    "ModelWarning",
    "PrecisionCheck",
    "Preprocessing",
    "VersionEntry",
]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


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


class AliasTarget(BaseModel):
    """What an alias is to point to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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
