"""The options of a request, each said once: name, type, default, bounds and meaning.

Everything else follows from the table here: the fields of forms, queries and JSON with their OpenAPI description, the
flags of the command line, the arguments of the clients, what the page offers, and the table in docs/api.md.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable  # noqa: TC003  # for whoever reads the hints of the arguments
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict, Union, get_args, get_origin, get_type_hints

from service.vocabulary import Augment, Fuse, ImageFormat, Output, Registration, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_COLORMAP",
    "DEFAULT_TOP_K",
    "OPTIONS",
    "SIGNED_COLORMAP",
    "About",
    "ExplainArguments",
    "Option",
    "Options",
    "PredictArguments",
    "attributes_of",
    "table_of",
]

DEFAULT_TOP_K = 5
DEFAULT_COLORMAP = "turbo"
SIGNED_COLORMAP = "coolwarm"
"""For maps with a sign, where no colormap is given: it has a middle."""


@dataclass(frozen=True)
class About:
    """What is said of an option besides its type and default.

    Attributes:
        description: its meaning, in Markdown. ``{methods}`` and ``{colormaps}`` stand for where one finds their names.
        name: what callers write, where it differs from the attribute's name.
        shown: the default that callers are told, where the attribute is None so that one knows whether it was given.
        low: the smallest number allowed.
        high: the greatest.
        most: how many values an option that may be repeated can have.
        longest: characters in a text, or in each of several, at most.
        predict: whether ``predict`` has it, too.
        examples: values as they stand in JSON.
    """

    description: str
    name: str | None = None
    shown: int | str | None = None
    low: int | None = None
    high: int | None = None
    most: int | None = None
    longest: int | None = None
    predict: bool = False
    examples: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be asked about an image. A new option is a line here and one among the arguments below."""

    top_k: Annotated[
        int | None,
        About(
            "How many classes to list, at most as many as there are.",
            shown=DEFAULT_TOP_K,
            low=1,
            high=100_000,
            predict=True,
        ),
    ] = None
    head: Annotated[
        int | str | None, About("Of a model with several outputs: which one, by name or position.", predict=True)
    ] = None
    labels: Annotated[
        tuple[str, ...],
        About(
            "Of a zero-shot model (one with `prompts`): its classes for this request, each put into the prompt.",
            most=256,
            longest=1000,
            predict=True,
            examples=(["red car", "bicycle"],),
        ),
    ] = ()
    scores: Annotated[
        bool,
        About(
            "Say how sure the model is of each picture, by the entropy and the margin of its prediction.", predict=True
        ),
    ] = False
    layers: Annotated[
        tuple[str, ...],
        About("Layers of the catalogue, or `default`.", name="layer", most=64, examples=(["layer4"],)),
    ] = ("default",)
    targets: Annotated[
        tuple[int | str, ...],
        About(
            "Classes to explain: a label (whatever the case), an index (`#3` where labels are numbers, too), "
            "`predicted`, or `top-K` for the K best. Of a zero-shot model also `text:` and a sentence, "
            "which becomes one more class.",
            name="target",
            most=256,
            examples=(["predicted"], ["top-3", "star"], [281], ["text:a photo of a red car"]),
        ),
    ] = ("predicted",)
    against: Annotated[
        int | str | None,
        About("A class: explain why the target *rather than this* (score = difference of the logits)."),
    ] = None
    methods: Annotated[tuple[str, ...], About("Names from {methods}.", name="method", most=64)] = ("gradcam",)
    outputs: Annotated[tuple[Output, ...], About("What to return of each explanation.", name="output", most=16)] = (
        "heatmap",
    )
    size: Annotated[Size, About("The grid of the rendered pictures.")] = "picture"
    registration: Annotated[
        Registration,
        About(
            "Where a layer's cells are drawn: where they were measured to look, or (`stretch`) evenly spread over the "
            "model's input. Raw maps are the same."
        ),
    ] = "measured"
    colormap: Annotated[str | None, About("A name from {colormaps}.", shown=DEFAULT_COLORMAP, longest=64)] = None
    alpha: Annotated[float, About("Opacity of the heatmap in the overlay.", low=0, high=1)] = 0.5
    threshold: Annotated[float, About("Share of the map's maximum above which regions are drawn.", low=0, high=1)] = 0.5
    region: Annotated[
        str | list[float] | list[list[float]] | None,
        About(
            "For `scores`: a box `[left, top, right, bottom]` or a polygon `[[x, y], …]`, as JSON, in pixels of the "
            "upright picture; `mass_inside` is the share of the map that lies in it.",
            examples=([230, 150, 381, 311],),
        ),
    ] = None
    image_format: Annotated[
        ImageFormat, About("`auto`: palette PNG for heatmaps, grey PNG for masks, JPEG for overlays.")
    ] = "auto"
    max_side: Annotated[int, About("Longest side of rendered pictures, in pixels.", low=16, high=8192)] = 1024
    signed: Annotated[
        bool, About("Keep what speaks against the class, as values below zero, in a diverging colormap.")
    ] = False
    smooth: Annotated[int, About("Average over so many noisy copies of the picture; 0 for none.", low=0, high=64)] = 0
    augment: Annotated[Augment, About("`flip`: average over the picture and its mirror image.")] = "none"
    verify: Annotated[
        bool,
        About(
            "Put each map to the proof: hide what it calls important and see whether the score drops by more than when "
            "the same shape is hidden elsewhere. Some twenty more passes per explanation."
        ),
    ] = False
    fuse: Annotated[
        Fuse | None, About("Make one map of those of all layers asked for, on the finest of their grids.")
    ] = None


class PredictArguments(TypedDict, total=False):
    """The keyword arguments of a client's ``predict``. What is left out, or None, is the server's default."""

    top_k: int | None
    head: int | str | None
    labels: str | Iterable[str] | None
    scores: bool | None


class ExplainArguments(PredictArguments, total=False):
    """The keyword arguments of a client's ``explain``; tests hold them to the table above."""

    layer: str | Iterable[str] | None
    target: int | str | Iterable[int | str] | None
    against: int | str | None
    method: str | Iterable[str] | None
    output: Output | Iterable[Output] | None
    size: Size | None
    registration: Registration | None
    colormap: str | None
    alpha: float | None
    threshold: float | None
    region: str | list[float] | list[list[float]] | None
    image_format: ImageFormat | None
    max_side: int | None
    signed: bool | None
    smooth: int | None
    augment: Augment | None
    verify: bool | None
    fuse: Fuse | None


@dataclass(frozen=True)
class Option:
    """An option as its line in ``Options`` has it.

    Attributes:
        name: what callers write: in forms and queries, as a keyword, and as a flag with ``-`` for ``_``.
        attribute: of ``Options``.
        type: of one value; None, and that there may be several, are left out.
        default: what callers are told; a tuple where it may be repeated.
        repeatable: whether it may be given several times.
        nullable: whether a caller may say None.
        about: what else there is to say.
    """

    name: str
    attribute: str
    type: Any
    default: Any
    repeatable: bool
    nullable: bool
    about: About

    @property
    def choices(self) -> tuple[str, ...]:
        """All values that it may have; empty where there is no such list."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def describe(self, *, methods: str, colormaps: str) -> str:
        """Return its meaning, with what to call the places where methods and colormaps are listed."""
        return self.about.description.format(methods=methods, colormaps=colormaps)


def table_of(options: type[Options]) -> dict[str, Option]:
    """Return the options by name, in the order of their lines."""
    hints = get_type_hints(options, include_extras=True)
    rows = [_row(field, *get_args(hints[field.name])) for field in dataclasses.fields(options)]
    return {row.name: row for row in rows}


def _row(field: dataclasses.Field[Any], hint: Any, about: About) -> Option:
    repeatable = get_origin(hint) is tuple
    kinds = [get_args(hint)[0]] if repeatable else get_args(hint) if _is_union(hint) else [hint]
    return Option(
        name=about.name or field.name,
        attribute=field.name,
        type=functools.reduce(operator.or_, [kind for kind in kinds if kind is not NoneType]),
        default=field.default if about.shown is None else about.shown,
        repeatable=repeatable,
        nullable=NoneType in kinds and about.shown is None,
        about=about,
    )


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in {Union, UnionType}


OPTIONS: Mapping[str, Option] = table_of(Options)


def attributes_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Turn options by name, as callers give them, into the attributes of ``Options``.

    Lists become tuples, at any depth: options are compared and hashed.
    """
    return {OPTIONS[name].attribute: _frozen(value) for name, value in given.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
