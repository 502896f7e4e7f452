"""Requests as values: what to send, and what to make of the response. Shared by both clients."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from service import errors, wire, wire_models
from service.client.answers import Explained, ExplanationView, Failed, Predicted
from service.client.errors import from_problem, unexpected
from service.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import httpx
    import PIL.Image

__all__ = [
    "READY",
    "VERSION",
    "Call",
    "ImageSource",
    "alias_call",
    "explain_call",
    "file_of",
    "get",
    "layers_call",
    "model_path",
    "only",
    "predict_call",
    "put_call",
    "reload_call",
    "remove_call",
    "unload_call",
    "validated",
]

_CLASSES = {"target", "against"}

T = TypeVar("T")
ModelT = TypeVar("ModelT", bound=BaseModel)

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | PIL.Image.Image"
"""A picture: the path of a file, a file's bytes, or a PIL picture (sent as it is shown, as PNG; whole numbers that
fit into no PNG, as TIFF)."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request: what to give to httpx, and what to make of the response."""

    verb: str
    path: str
    parse: Callable[[httpx.Response], T]
    arguments: dict[str, Any] = field(default_factory=dict)
    probe: bool = False
    """Never tried again, and a 503 is an answer."""
    changes: bool = False
    """Changes something: tried again only where the server said that nothing was done."""


VERSION = Call("GET", "/version", lambda response: validated(wire.Version, response))
READY: Call[bool] = Call("GET", "/readyz", lambda response: response.is_success, {"timeout": 5.0}, probe=True)


def get(answer: type[ModelT], path: str, **params: object) -> Call[ModelT]:
    """Read a catalogue: ``params`` that are None are left out."""
    given = {name: str(value) for name, value in params.items() if value is not None}
    return Call("GET", f"/api/v1{path}", partial(validated, answer), {"params": given})


def layers_call(model: str, explainable: bool | None, kind: str | None) -> Call[wire_models.LayerList]:
    """Read a model's layers."""
    flag = None if explainable is None else str(explainable).lower()
    return get(wire_models.LayerList, f"{model_path(model)}/layers", explainable=flag, kind=kind)


def put_call(name: str, config: Mapping[str, object], wait_s: float) -> Call[wire_models.ModelEntry]:
    """Create or replace a model."""
    return _changing("PUT", model_path(name), wire_models.ModelEntry, wait_s, json=dict(config))


def reload_call(name: str, layer: str | None, wait_s: float) -> Call[wire_models.ModelEntry]:
    """Load a model again, with another default layer if one is given."""
    query = {} if layer is None else {"layer": layer}
    return _changing("POST", f"{model_path(name)}/reload", wire_models.ModelEntry, wait_s, **query)


def unload_call(name: str) -> Call[wire_models.ModelEntry]:
    """Put a model out of memory."""
    return _changing("POST", f"{model_path(name)}/unload", wire_models.ModelEntry)


def alias_call(alias: str, model: str, version: str) -> Call[wire_models.AliasEntry]:
    """Create or move an alias."""
    path = f"/aliases/{quote(alias, safe='')}"
    return _changing("PUT", path, wire_models.AliasEntry, json={"model": model, "version": version})


def remove_call(path: str) -> Call[None]:
    """Remove a model or an alias."""
    return Call("DELETE", f"/api/v1{path}", lambda _response: None, changes=True)


def _changing(
    verb: str, path: str, answer: type[ModelT], wait_s: float | None = None, json: object = None, **query: str
) -> Call[ModelT]:
    arguments: dict[str, Any] = {} if json is None else {"json": json}
    if wait_s is not None:
        arguments |= {"params": {"wait": str(wait_s), **query}, "timeout": wait_s + 60.0}
    return Call(verb, f"/api/v1{path}", partial(validated, answer), arguments, changes=True)


def model_path(model: str) -> str:
    """Return the path of a model under the API."""
    return f"/models/{quote(model, safe='')}"


def explain_call(
    images: Iterable[ImageSource], model: str | None, version: str | None, options: Mapping[str, object]
) -> Call[list[Explained | Failed]]:
    """Explain pictures; a misspelt option is a TypeError that names the closest."""
    given = {"output": ("heatmap", "overlay", "map"), **_given("explain", OPTIONS, options)}
    return _post("explain", images, _asked(model, version), given, _explained)


def predict_call(
    images: Iterable[ImageSource], model: str | None, version: str | None, options: Mapping[str, object]
) -> Call[list[Predicted | Failed]]:
    """Predict pictures; a misspelt option is a TypeError that names the closest."""
    known = [name for name, option in OPTIONS.items() if option.about.predict]
    return _post("predict", images, _asked(model, version), _given("predict", known, options), _predicted)


def _asked(model: str | None, version: str | None) -> str:
    """Return the path of what is asked; without a model, the default one is."""
    if version is None:
        return "" if model is None else model_path(model)
    if model is None:
        raise ValueError("version= goes with model=: a label is that of one model.")
    return f"{model_path(model)}/versions/{quote(version, safe='')}"


def _given(verb: str, known: Collection[str], options: Mapping[str, object]) -> dict[str, object]:
    """Return the options that are not None."""
    for name in options:
        if name not in known:
            near = errors.closest(name, known)
            raise TypeError(f"{verb} has no option {name!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
    return {name: value for name, value in options.items() if value is not None}


def _post(
    verb: str,
    images: Iterable[ImageSource],
    asked: str,
    options: Mapping[str, object],
    read: Callable[[wire.ExplainResponse, wire.PictureResult], T],
) -> Call[list[T | Failed]]:
    if isinstance(images, str | bytes | os.PathLike):
        raise TypeError("Several pictures are expected: put the one into a list.")
    files = [("image", file_of(image, f"image-{index}")) for index, image in enumerate(images)]
    if not files:
        raise ValueError("There is no picture to send.")
    data = {name: _values(name, value) for name, value in options.items()}
    return Call("POST", f"/api/v1{asked}/{verb}", partial(_results, read, len(files)), {"files": files, "data": data})


def _values(name: str, value: object) -> list[str]:
    """Write an option as the values of a repeated form field. A class's index has its sign: labels may be numbers."""
    if isinstance(value, list | tuple) and not OPTIONS[name].repeatable:
        return [json.dumps(value)]
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if not values:
        raise ValueError(f"{name}= is empty: leave it out for the default.")
    return [f"#{item}" if name in _CLASSES and isinstance(item, Integral) else str(item) for item in values]


def file_of(image: ImageSource, stem: str) -> tuple[str, bytes]:
    """Return a file name (a part without one would be a form field) and the bytes."""
    if isinstance(image, bytes):
        return stem, image
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        return os.fsencode(path.name).decode(errors="replace"), path.read_bytes()
    return _encoded(image, stem)


def _encoded(image: PIL.Image.Image, stem: str) -> tuple[str, bytes]:
    """Return a file of a PIL picture: PNG, or TIFF for whole numbers that fit into no PNG."""
    from PIL import Image  # noqa: PLC0415 -- the client works without Pillow until it is given one of its pictures

    if not isinstance(image, Image.Image):
        raise TypeError(f"A picture is a path, bytes or a PIL.Image, not {type(image).__name__}.")
    if image.mode == "F":
        raise ValueError("A PIL.Image of mode F does not say what is white: convert it to L or I;16 first.")
    mode = _mode_sent(image)
    if mode != image.mode:
        image = image.convert("I").convert(mode) if image.mode.startswith("I;16") else image.convert(mode)
        image.info.pop("icc_profile", None)  # of the mode it had
    buffer = io.BytesIO()
    if mode == "I":
        image.save(buffer, "TIFF", compression="tiff_adobe_deflate")
        return f"{stem}.tif", buffer.getvalue()
    image.save(buffer, "PNG", compress_level=1)
    return f"{stem}.png", buffer.getvalue()


def _mode_sent(image: PIL.Image.Image) -> str:
    """Return the mode that keeps what a picture shows: of whole numbers, what the server makes of so wide ones.

    It takes numbers from 0 to 255 as they are, those up to 65535 as 16 bits, and all others from the smallest to the
    greatest.
    """
    if image.mode in {"1", "L", "LA", "P", "I;16", "RGB", "RGBA"}:
        return image.mode
    if image.mode == "I":
        low, high = cast("tuple[int, int]", image.getextrema())
        return "I" if low < 0 or high > 65535 else "L" if high <= 255 else "I;16"
    if image.mode.startswith("I;16"):
        return "I;16"
    return {"La": "LA"}.get(image.mode, "RGBA" if image.has_transparency_data else "RGB")


def validated(answer: type[ModelT], response: httpx.Response) -> ModelT:
    """Read an answer; raise an ``UnexpectedResponse`` where it is none."""
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise unexpected(response) from error


def _results(
    read: Callable[[wire.ExplainResponse, wire.PictureResult], T], count: int, response: httpx.Response
) -> list[T | Failed]:
    answer = validated(wire.ExplainResponse, response)
    if len(answer.results) != count:
        raise unexpected(response)
    return [
        Failed(result.image, from_problem(result.error)) if result.error is not None else read(answer, result)
        for result in answer.results
    ]


def _predicted(answer: wire.ExplainResponse, result: wire.PictureResult) -> Predicted:
    return Predicted(
        answer.model,
        result.image,
        result.view,
        tuple(result.predictions),
        result.scores,
        answer.timing,
        answer.cost,
        answer.precision,
        answer.id,
    )


def _explained(answer: wire.ExplainResponse, result: wire.PictureResult) -> Explained:
    views = tuple(
        ExplanationView(raw.layer, raw.method, raw.target, raw.against, raw.empty, raw.maximum, raw)
        for raw in result.explanations
    )
    predicted = _predicted(answer, result)
    scores = (views[0].scores if views else None) or predicted.scores
    return Explained(**{**vars(predicted), "scores": scores}, explanations=views)


def only(results: list[T | Failed]) -> T:
    """Return the one result, or raise its error."""
    [result] = results
    if isinstance(result, Failed):
        raise result.error
    return result
