"""A body with ``instances`` and ``parameters``, read into what the engine is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.engine.request import Request, Upload
from service.errors import (
    InvalidImage,
    InvalidOption,
    InvalidRequest,
    NoImage,
    ServiceError,
    TooManyImages,
    shorten,
)
from service.http.base64 import picture_of
from service.http.options import validated
from service.http.requests import body_of, client_of, json_object, read_in_thread, refuse_encoded, timeout_of
from service.options import Options, attributes_of
from service.protocols.kserve_v1.pixels import file_of
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request as HttpRequest

    from service.vocabulary import Operation

__all__ = ["Echoes", "read_request"]

# Values of the JSON, by its signs: two pictures of 224 × 224 pixels as numbers. Parsed, they take some milliseconds.
_MAX_SIGNS = 420_000
# By these names, first to last, an instance has its picture; or by the only one whose value is {"b64": "…"}.
_IMAGE_NAMES = ("image", "image_bytes", "data", "content", "b64")
# What instances of other services say of themselves, and nothing here depends on.
_SAID = {"key", "mimeType", "mime_type"}
# At the top; what is not read changes nothing of the answer.
_TOP = {"instances", "parameters", "signature_name", "deployedModelId", "deployed_model_id"}
# Other services' names of options.
_ALSO_CALLED = {"class_id": "target", "maxPredictions": "top_k"}
_THRESHOLD = "confidenceThreshold"
# Vertex AI answers with pictures that show the attributions laid on what was sent.
_DEFAULTS: Mapping[str, Any] = {"output": ["overlay"]}
_EXAMPLE = '{"instances": [{"image": {"b64": "…"}}], "parameters": {"top_k": 3}}'


@dataclass(frozen=True)
class Echoes:
    """What of a request matters to its answer alone.

    Attributes:
        keys: by position, what instances are called by the caller.
        threshold: of probability; classes below it are not listed.
    """

    keys: Mapping[int, Any]
    threshold: float


async def read_request(
    http: HttpRequest, op: Operation, model: str, version: str | None = None
) -> tuple[Request, Echoes]:
    """Read a request, whatever its content type says: clients of V1 do not always send one.

    An instance that is no picture, or has options that are none, has its own error; the others are answered.

    Raises:
        InvalidRequest, NoImage, TooManyImages, BodyTooLarge: the body cannot be used.
        InvalidOption: a parameter is unknown or out of range.
    """
    refuse_encoded(http)
    body = await body_of(http)
    most = http.state.settings.max_images

    def read() -> tuple[Request, Echoes]:
        fields = _parse(body)
        instances = _instances(fields, most)
        common, threshold = _parameters(fields.get("parameters"))
        uploads = [_upload(instance, f"instances.{index}", common) for index, instance in enumerate(instances)]
        keys = {i: each["key"] for i, each in enumerate(instances) if isinstance(each, dict) and "key" in each}
        asked = Request(
            uploads,
            op=op,
            model=model,
            version=version,
            timeout_s=timeout_of(http),
            **client_of(http),
            **_attributes(common),
        )
        return asked, Echoes(keys, threshold)

    return await read_in_thread(http, read, len(body))


def _parse(body: bytes) -> dict[str, Any]:
    fields = json_object(body, _MAX_SIGNS, _EXAMPLE)
    if unknown := [name for name in fields if name not in _TOP]:
        raise InvalidRequest(
            f"There is no member {shorten(unknown[0])!r}. Send an object such as {_EXAMPLE}; options stand in "
            "'parameters', or in an instance."
        )
    return fields


def _instances(fields: Mapping[str, Any], most: int) -> list[Any]:
    instances = fields.get("instances")
    if not isinstance(instances, list):
        raise InvalidRequest(f"'instances' is not a list. Send an object such as {_EXAMPLE}.")
    if not instances:
        raise NoImage("'instances' is empty. Send at least one picture.")
    if len(instances) > most:
        raise TooManyImages(f"{len(instances)} instances are too many for one request; send {most} at most.")
    return instances


def _parameters(parameters: Any) -> tuple[dict[str, Any], float]:
    """Return the options that all instances share, and the probability below which classes are not listed."""
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise InvalidOption("'parameters' is not an object of options.")
    named = _named(parameters)
    threshold = named.pop(_THRESHOLD, 0.0)
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise InvalidOption(f"{_THRESHOLD!r} must be a number from 0 to 1.")
    options = {**_DEFAULTS, **named}
    validated(ExplainOptions, options)
    return options, float(threshold)


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by their names here; null is the same as left out."""
    return {_ALSO_CALLED.get(name, name): value for name, value in options.items() if value is not None}


def _attributes(options: Mapping[str, Any]) -> dict[str, Any]:
    return attributes_of(validated(ExplainOptions, options).given())


def _upload(instance: Any, where: str, common: Mapping[str, Any]) -> Upload:
    try:
        data, own = _picture(instance, where)
        options = Options(**_attributes({**common, **_named(own)})) if own else None
    except ServiceError as error:
        return Upload(b"", error=error)
    return Upload(data, options=options)


def _picture(instance: Any, where: str) -> tuple[bytes, dict[str, Any]]:
    """Return an instance's picture, and the options beside it.

    Raises:
        InvalidImage: there is none.
    """
    if not isinstance(instance, dict):
        return _file(instance, where), {}
    name = next((name for name in _IMAGE_NAMES if name in instance), None) or _only_encoded(instance)
    if name is None:
        raise InvalidImage(
            f'{where!r} has no picture. Send its file in base64, as {{"image": {{"b64": "…"}}}}, or as the '
            "instance itself."
        )
    own = {other: value for other, value in instance.items() if other != name and other not in _SAID}
    return _file(instance[name], f"{where}.{name}"), own


def _only_encoded(instance: Mapping[str, Any]) -> str | None:
    """Return the name under which TensorFlow Serving's clients send bytes: that of the model's input."""
    names = [name for name, value in instance.items() if isinstance(value, dict) and "b64" in value]
    return names[0] if len(names) == 1 else None


def _file(value: Any, where: str) -> bytes:
    if isinstance(value, dict) and "b64" in value:
        value, where = value["b64"], f"{where}.b64"
    if isinstance(value, str):
        return picture_of(value, where)
    if isinstance(value, list):
        return file_of(value, where)
    raise InvalidImage(f"{where!r} is no picture. Send its file in base64, or its pixels as lists of numbers.")
