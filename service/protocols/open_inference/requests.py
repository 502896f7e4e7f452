"""A body of the Open Inference Protocol, read into what the engine is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.engine.request import Request, Upload
from service.errors import InvalidOption, InvalidRequest, ServiceError, closest, shorten
from service.http.base64 import picture_of
from service.http.options import check_one_map, refuse, validated
from service.http.requests import body_of, client_of, json_object, read_in_thread, refuse_encoded, timeout_of
from service.options import Options, attributes_of
from service.protocols.open_inference.tensors import Binary, Tensor, read_tensors
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request as HttpRequest

    from service.settings import Settings
    from service.vocabulary import Output, Size

__all__ = ["OUTPUTS", "Asked", "read_request"]

OUTPUTS = (
    "heatmap",
    "overlay",
    "class_id",
    "score",
    "label",
    "entropy",
    "margin",
    "mass_inside",
    "flip_stability",
    "layer_agreement",
    "error",
)
_BY_DEFAULT = ("heatmap", "class_id", "score", "label")
# What of the engine's outputs they need.
_DRAWN: Mapping[str, Output] = {
    "heatmap": "map",
    "overlay": "overlay",
    "mass_inside": "scores",
    "flip_stability": "scores",
    "layer_agreement": "scores",
}
_MAX_SIGNS = 50_000
_EXAMPLE = '{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["…"]}]}'
_TOP = {"id", "model_name", "model_version", "parameters", "inputs", "outputs"}
# What clients say of themselves, and what the answer does not depend on here.
_SAID = {"content_type", "headers", "sequence_id", "sequence_start", "sequence_end"}
_SPLIT = {"layer", "method", "labels"}
_CERTAINTY = {"entropy", "margin"}
# Options of the native API that are said otherwise here.
_INSTEAD = {
    "output": "name the tensors that you want in 'outputs'",
    "scores": "name 'entropy', 'margin', 'mass_inside', 'flip_stability' and 'layer_agreement' in 'outputs'",
    "verify": "no tensor has room for what comes out; ask /api/v1 or /v1",
}
_LONGEST_ID = 1024
# A client's own requests of lower priority have so much of its share.
_BULK = 1 / 8


@dataclass(frozen=True)
class Asked:
    """A request, and what matters to its answer alone.

    Attributes:
        request: for the engine.
        id: the caller's; None where there is none.
        outputs: by name, whether each is sent in binary.
        size: the grid of the heatmap.
    """

    request: Request
    id: str | None
    outputs: Mapping[str, bool]
    size: Size


async def read_request(http: HttpRequest, model: str, version: str | None) -> Asked:
    """Read a request: JSON, JSON with binary data behind it, or a picture as the whole body.

    Raises:
        InvalidRequest, NoImage, TooManyImages, BodyTooLarge: the body cannot be used.
        InvalidOption: a parameter is unknown or out of range.
    """
    refuse_encoded(http)
    body = await body_of(http)
    announced = http.headers.get("inference-header-content-length")
    settings: Settings = http.state.settings

    def read() -> Asked:
        fields, tensors = _split(body, announced, settings.max_images)
        return _asked(http, fields, tensors, model, version)

    return await read_in_thread(http, read, len(body))


def _split(body: bytes, announced: str | None, most: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the members of the JSON, and the tensors in it or behind it."""
    if announced is None:
        length = len(body)
    elif announced.isascii() and announced.isdecimal() and int(announced[:20]) <= len(body):
        length = int(announced[:20])
    else:
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {shorten(announced)!r}, and the body has {len(body)} bytes. It is how "
            "many of them are JSON; 0 says that the body is a picture."
        )
    if announced is not None and not length:
        return {}, {"image": Tensor("image", [body])}
    fields = _parse(body[:length])
    return fields, read_tensors(fields.get("inputs"), Binary(body[length:]), most)


def _parse(text: bytes) -> dict[str, Any]:
    fields = json_object(text, _MAX_SIGNS, _EXAMPLE)
    if unknown := [name for name in fields if name not in _TOP]:
        raise InvalidRequest(f"There is no member {shorten(unknown[0])!r}. Options stand in 'parameters'.")
    return fields


def _asked(
    http: HttpRequest, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], model: str, version: str | None
) -> Asked:
    parameters = _parameters(fields.get("parameters"))
    outputs = _outputs(fields.get("outputs"), in_binary=_flag(parameters, "binary_data_output"))
    drawn = tuple(dict.fromkeys(_DRAWN[name] for name in outputs if name in _DRAWN))
    timeout_s = _timeout_s(http, _whole(parameters, "timeout"))
    client = _with_priority(client_of(http), _whole(parameters, "priority"))
    attributes = attributes_of(validated(ExplainOptions, _options(parameters)).given())
    attributes |= {"scores": not _CERTAINTY.isdisjoint(outputs), **({"outputs": drawn} if drawn else {})}
    _check_layers(attributes, outputs)
    _check_region(attributes, outputs)
    request = Request(
        _uploads(tensors, attributes),
        op="explain" if drawn else "predict",
        model=model,
        version=version,
        timeout_s=timeout_s,
        **client,
        **attributes,
    )
    return Asked(request, _id(fields.get("id")), outputs, attributes.get("size", "layer"))


def _check_layers(attributes: Mapping[str, Any], outputs: Mapping[str, bool]) -> None:
    """Refuse what makes several maps of a picture, but for the layers that the first of them is compared with."""
    if "layer_agreement" not in outputs:
        return check_one_map(attributes)
    layers = tuple(dict.fromkeys(attributes.get("layers", ())))
    if len(layers) < 2 or attributes.get("fuse"):
        raise InvalidOption(
            "The output 'layer_agreement' compares the maps of layers: name two or more in the parameter 'layer', "
            "apart by commas, without 'fuse'."
        )
    return check_one_map({**attributes, "layers": layers[:1]})


def _check_region(attributes: Mapping[str, Any], outputs: Mapping[str, bool]) -> None:
    if ("mass_inside" in outputs) != (attributes.get("region") is not None):
        raise InvalidOption(
            "The output 'mass_inside' says how much of a map lies in the parameter 'region', a box or a polygon as the "
            "text of its JSON. Send both, or neither."
        )


def _id(given: Any) -> str | None:
    if given is None or (isinstance(given, str) and len(given) <= _LONGEST_ID):
        return given
    raise InvalidRequest(f"'id' must be text of at most {_LONGEST_ID} characters.")


def _parameters(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InvalidRequest("'parameters' is not an object.")
    for name, value in given.items():
        if name not in _SAID and not isinstance(value, str | int | float | None):
            raise InvalidOption(
                f"The parameter {shorten(name)!r} must be text, a number, true or false; several layers or methods "
                "stand in one text, apart by commas."
            )
    return {name: value for name, value in given.items() if value is not None}


def _flag(parameters: dict[str, Any], name: str) -> bool:
    """Take a parameter that is true or false."""
    value = parameters.pop(name, False)
    if not isinstance(value, bool):
        raise InvalidOption(f"The parameter {name!r} must be true or false.")
    return value


def _whole(parameters: dict[str, Any], name: str) -> int:
    """Take a parameter that is a whole number; 0 is the same as none."""
    value = parameters.pop(name, 0)
    if type(value) is not int or value < 0:
        raise InvalidOption(f"The parameter {name!r} must be a whole number, 0 or more.")
    return value


def _timeout_s(http: HttpRequest, microseconds: int) -> float | None:
    """Return the time allowed: what the header says or the server's, unless the parameter is less."""
    allowed = timeout_of(http)
    if not microseconds:
        return allowed
    default: float = http.state.settings.request_timeout_s
    return min(default if allowed is None else allowed, min(microseconds, 10**15) / 1e6)


def _with_priority(client: dict[str, Any], priority: int) -> dict[str, Any]:
    """Put requests of lower priority behind others of the same client: they have a queue and a share of their own."""
    if priority <= 1:
        return client
    return {**client, "client": f"{client['client']} (bulk)", "weight": client.get("weight", 1.0) * _BULK}


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    refuse(parameters, _INSTEAD)
    return {
        name: [each.strip() for each in value.split(",")] if name in _SPLIT and isinstance(value, str) else value
        for name, value in parameters.items()
        if name not in _SAID and not name.startswith("triton_")
    }


def _outputs(given: Any, *, in_binary: bool) -> dict[str, bool]:
    """Return the outputs that are asked for, and whether each is sent in binary."""
    if given is None or given == []:
        return dict.fromkeys(_BY_DEFAULT, in_binary)
    if not isinstance(given, list):
        raise InvalidRequest("'outputs' is not a list.")
    outputs: dict[str, bool] = {}
    for each in given:
        name = each.get("name") if isinstance(each, dict) else None
        if not isinstance(name, str) or name not in OUTPUTS:
            near = closest(str(name), OUTPUTS)
            meant = f" Did you mean {near[0]!r}?" if near else f" There are {', '.join(OUTPUTS)}."
            raise InvalidRequest(f"There is no output {shorten(repr(name))}.{meant}")
        if name in outputs:
            raise InvalidRequest(f"Output {name!r} is asked for twice.")
        parameters = {} if each.get("parameters") is None else each["parameters"]
        if not isinstance(parameters, dict):
            raise InvalidRequest(f"The parameters of output {name!r} are not an object.")
        for unread, instead in {"classification": "class_id, score and label", "shared_memory_region": "it"}.items():
            if parameters.get(unread):
                raise InvalidRequest(f"{unread!r} of output {name!r} is not supported. Ask for {instead} alone.")
        outputs[name] = _flag({"binary_data": in_binary} | parameters, "binary_data")
    return outputs


def _uploads(tensors: Mapping[str, Tensor], attributes: Mapping[str, Any]) -> list[Upload]:
    """Return the pictures, each with its own target where there are such."""
    images = [_upload(value, index, tensors["image"]) for index, value in enumerate(tensors["image"].values)]
    if "target" not in tensors:
        return images
    return [
        Upload(each.data, error=each.error, options=Options(**{**attributes, "targets": (_target(value, index),)}))
        for index, (each, value) in enumerate(zip(images, tensors["target"].values, strict=True))
    ]


def _upload(value: str | bytes, index: int, tensor: Tensor) -> Upload:
    where = f"image[{index}]"
    try:
        if isinstance(value, str):
            return Upload(picture_of(value, where))
        if tensor.content_type == "base64":
            return Upload(picture_of(value.decode("ascii", "replace"), where))
    except ServiceError as error:
        return Upload(b"", error=error)
    return Upload(value)


def _target(value: int | str | bytes, index: int) -> int | str:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"'target[{index}]' is not UTF-8.") from None
