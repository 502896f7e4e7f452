"""How one model is configured: a ``[[models]]`` table, a body of the management routes, or one line of text.

Reads no environment and no file.
"""

from __future__ import annotations

import json
import logging
import re
from functools import cache
from pathlib import Path  # noqa: TC003  # pydantic reads the annotations
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.vocabulary import Activation, ChannelOrder, Decoding, Fitting, Precision, Preset

__all__ = ["NAME_PATTERN", "ModelConfig", "NoPath", "parse_option", "whole_device"]

log = logging.getLogger("camserve.models")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
NAME_PATTERN = f"^{_NAME.pattern}$"
_DEVICE = r"^(cpu|cuda(:[0-9]{1,3})?|mps)$"


class NoPath:
    """Marks a text of a configuration that is never the name of a file; any other may be one.

    What comes over HTTP is judged by it: see :mod:`service.engine.permitted`.
    """


Word = Annotated[str, NoPath()]


def _floats(value: object) -> object:
    """Read ``0.485/0.456/0.406``, or one number for all channels, however many the model takes."""
    parts = value.split("/") if isinstance(value, str) else value
    if isinstance(parts, int | float):
        parts = [parts]
    return tuple(parts) * 3 if isinstance(parts, list | tuple) and len(parts) == 1 else parts


Channels = Annotated[tuple[float, ...], BeforeValidator(_floats), Field(min_length=2, max_length=64)]


def _label_map(value: object) -> object:
    """Read a label that means one class as a list of it, and a JSON object as the table."""
    table = _json_object(value)
    if not isinstance(table, dict):
        return table
    return {label: [classes] if isinstance(classes, str | int) else classes for label, classes in table.items()}


def _json_object(value: object) -> object:
    """Read ``{"classes": 7}``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f'must be a JSON object, such as {{"classes": 7}}: {error}') from error


class ModelConfig(BaseModel):
    """One model to serve, from a ``[[models]]`` table or from ``[name=]architecture[:weights][,option=value…]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Word = Field("", description="Name in the API; the architecture's if left out.", validate_default=True)
    architecture: str = Field(
        description="`shapes`, `shapes-shortcut`, a torchvision classification model, the name of a function of yours "
        "that returns a module, `timm/NAME`, `hf/NAME`, or the path of a model's file or folder."
    )
    weights: str | None = Field(
        None,
        description="A `.safetensors` or `.pth` file, the name of a torchvision weights entry, or `random`; "
        "the source's own default if left out.",
    )
    labels: Path | dict[str, Path] | None = Field(
        None,
        description="A file with the class labels: a line each, or `.csv`, `.json` or `.yaml`. Of a model with several "
        "outputs: a table of one file per head; a file alone is the default head's.",
    )
    label_map: Annotated[dict[Word, tuple[int | Word, ...]], BeforeValidator(_label_map)] = Field(
        {},
        description="For labelling tools: what labels of their projects mean, where they are called otherwise than the "
        "classes. A table from label to class, or to a list of classes; a class is a label or an index.",
    )
    prompts: Word | None = Field(
        None, description="Of a zero-shot model (`clip/…`): the sentence of a class, with `{}` for its label."
    )
    source: Word | None = Field(
        None, description="What reads it, as `camserve models` lists them; told by the artefact if left out."
    )
    factory_args: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(
        {}, description="Of a function of yours: its arguments by name, a table or a JSON object."
    )
    layer: Word | None = Field(None, description="Default target layer.")
    mode: Fitting | None = Field(None, description="How a picture is fitted to the input.")
    resize: int | None = Field(None, ge=1, le=8192, description="Shorter side before the centre crop.")
    size: int | None = Field(None, ge=8, le=4096, description="Input height and width in pixels, where they are equal.")
    height: int | None = Field(None, ge=8, le=4096, description="Input height in pixels, where it is not the width.")
    width: int | None = Field(None, ge=8, le=4096, description="Input width in pixels, where it is not the height.")
    channels: int = Field(
        3,
        ge=1,
        le=64,
        description="Input channels: 3 for colours, 1 for grey; any other "
        "number is taken from pictures that have so many.",
    )
    order: ChannelOrder = Field("RGB", description="In which order the model takes the colours; BGR is OpenCV's.")
    interpolation: Literal["nearest", "bilinear", "plain_bilinear", "bicubic"] | None = Field(
        None,
        description="Resampling filter. `plain_bilinear` is not antialiased, as Keras resizes; `nearest` is its "
        "`load_img`.",
    )
    decoding: Decoding | None = Field(
        None,
        description="`reduced` decodes large JPEGs at a half, a quarter or an eighth of their size, to at least twice "
        "what the input needs: a photo of 12 megapixels in a third of the time, probabilities other by up to 0.02. "
        "Needs an antialiased `interpolation`.",
    )
    preset: Preset | None = Field(
        None,
        description="What `preprocess_input` of `keras.applications` does to pixels, by its mode: `scale`, `mean`, "
        "`std` and `order` in one word. `caffe` is BGR.",
    )
    scale: float | None = Field(
        None,
        gt=0,
        le=1,
        description="What a pixel (0–255) is multiplied by, before `mean` and `std`; the source's own, or 1/255.",
    )
    mean: Channels | None = Field(
        None, description="Per-channel mean of the input, of pixels times `scale`, in `order`."
    )
    std: Channels | None = Field(None, description="Per-channel standard deviation, likewise.")
    precision: Precision | Literal["auto"] = Field(
        "float32",
        description="What the model computes in. `bfloat16` only where it agrees with float32, which is tried at load; "
        "`auto` takes it where the hardware has it and it agrees.",
    )
    device: Word | None = Field(
        None,
        json_schema_extra={"pattern": _DEVICE},
        description="Where its workers compute: `cpu`, `cuda`, `cuda:1`, `mps`; on the service's own devices if left "
        "out.",
    )
    head: Word | None = Field(None, description="Of a model with several outputs: which one answers by default.")
    multi_label: bool = Field(False, description="Classes do not exclude each other: probabilities are sigmoids.")
    activation: Literal["auto", Activation] | dict[str, Literal["auto", Activation]] = Field(
        "auto",
        union_mode="left_to_right",
        description="What makes probabilities of the outputs; `none` where they are probabilities. `auto` finds out. "
        "Of a model with several outputs: a table of one per head, `auto` for those left out.",
    )
    transform_input: bool | None = Field(
        None,
        description="Of `googlenet` and `inception_v3`: whether the network itself brings its input from ImageNet's "
        "scale to −1–1, as the published weights expect. If left out, a file is taken to be fine-tuned from these.",
    )
    use_ema: bool | None = Field(
        None,
        description="Of a file with averaged weights (EMA) beside others: whether to take these. If left out, the "
        "others are taken, with a warning.",
    )
    version: Word | None = Field(None, description="Reported in answers; the weights' own name or digest if left out.")

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        fields = _parse_model(value) if isinstance(value, str) else value
        if isinstance(fields, dict) and "dtype" in fields and "precision" not in fields:
            _say_that_it_is_old()
            fields = {"precision" if key == "dtype" else key: each for key, each in fields.items()}
        if isinstance(fields, dict) and not fields.get("name") and fields.get("architecture"):
            # Of a path, which is none, its last part: the error to come is about the file and not about its name.
            return {**fields, "name": str(fields["architecture"]).rstrip("/").rpartition("/")[2]}
        return fields

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"model name {self.name!r} may hold letters, digits, '.', '_' and '-' only")
        if self.size is not None and (self.height is not None or self.width is not None):
            raise ValueError("size is height and width in one: give size alone, or height and width")
        if self.device is not None and not re.fullmatch(_DEVICE, self.device):
            raise ValueError(f"device must be cpu, cuda, cuda:1 (or another number) or mps, not {self.device!r}")
        for key in ("mean", "std"):
            numbers = len(getattr(self, key) or ())
            if numbers == 2 != self.channels:
                raise ValueError(
                    f"{key} must be one number, or one for each of {self.channels} channels, not {numbers}"
                )
        return self


def whole_device(device: str) -> str:
    """Return a device with its number: ``cuda`` is ``cuda:0``, and cuda:01 is cuda:1."""
    kind, _, number = device.partition(":")
    return f"cuda:{int(number or 0)}" if kind == "cuda" else device


@cache
def _say_that_it_is_old() -> None:
    """Say it once, however often a configuration is read."""
    log.warning("dtype is the old name of the option precision of a model: write precision instead")


def _parse_model(text: str) -> dict[str, Any]:
    head, *options = _split_options(text)
    front, _, weights = head.partition(":")  # first of all: a file's name may hold a "="
    name, _, architecture = front.rpartition("=")
    if "/" in name:  # and so may a folder's
        name, _, architecture = front.partition("=")
    if "/" in name:
        name, architecture = "", front
    fields: dict[str, Any] = {"name": name, "architecture": architecture}
    if weights:
        fields["weights"] = weights
    for option in options:
        key, value = parse_option(option, "model")
        table, dot, row = key.partition(".")  # labels.side=FILE, as in TOML
        if dot and isinstance(fields.setdefault(table, {}), dict):
            fields[table][row] = _number_or_text(value) if table == "factory_args" else value
        else:
            fields[key] = value
    return fields


def _split_options(text: str) -> list[str]:
    """Split at commas, but for those within a JSON object."""
    options = []
    while True:
        end = _end_of_object(text)
        option, comma, rest = text[end:].partition(",")
        options.append(text[:end] + option)
        if not comma:
            return options
        text = rest


def _end_of_object(text: str) -> int:
    """Return where the JSON object ends that the first option is; 0 where it is none, or has a mistake."""
    found = re.match(r"\s*\w+\s*=\s*(?=\{)", text)
    if found is None:
        return 0
    try:
        return json.JSONDecoder().raw_decode(text, found.end())[1]
    except ValueError:
        return 0


def _number_or_text(value: str) -> Any:
    """Read what JSON has: numbers, true, false, null, lists; anything else is text."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def parse_option(option: str, kind: str) -> tuple[str, str]:
    """Take apart one ``name=value`` of a line; the error says of what ``kind`` it is an option."""
    name, found, value = option.partition("=")
    if not found:
        raise ValueError(f"{kind} option {option!r} must look like key=value")
    return name.strip(), value.strip()
