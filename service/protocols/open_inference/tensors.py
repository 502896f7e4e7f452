"""Tensors of a request: their shapes, and their data in JSON or behind it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from service.errors import InvalidRequest, NoImage, TooManyImages, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Binary", "Tensor", "read_tensors"]

_INPUTS = {"image": ("BYTES",), "target": ("BYTES", "INT64", "INT32")}
_INTEGERS = {"INT64": "q", "INT32": "i"}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """An input: one value for each picture.

    Attributes:
        name: ``image`` or ``target``.
        values: text (of JSON), bytes (from behind it) or numbers.
        content_type: of its parameters; ``base64`` says that bytes are that.
    """

    name: str
    values: list[Any]
    content_type: str = ""


class Binary:
    """What stands behind the JSON of a body; inputs take their parts in their order."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def take(self, size: int, where: str) -> memoryview:
        """Return the next ``size`` bytes.

        Raises:
            InvalidRequest: there are fewer.
        """
        if size > len(self._data):
            raise InvalidRequest(
                f"Input {where!r} says that it has {size} bytes behind the JSON, there are {len(self._data)}. Check "
                "binary_data_size and Inference-Header-Content-Length."
            )
        part, self._data = self._data[:size], self._data[size:]
        return part

    def check_end(self) -> None:
        """Refuse bytes that belong to no input."""
        if self._data:
            raise InvalidRequest(
                f"{len(self._data)} bytes at the end of the body belong to no input. Check binary_data_size and "
                "Inference-Header-Content-Length."
            )


def read_tensors(inputs: Any, binary: Binary, most: int) -> dict[str, Tensor]:
    """Read the inputs of a request, by name.

    Raises:
        InvalidRequest: they are not as they say, or not what the model takes.
        NoImage: there are no pictures.
        TooManyImages: there are more than ``most``.
    """
    if not isinstance(inputs, list) or not inputs:
        raise NoImage("'inputs' is not a list of tensors. Send one named \"image\", of BYTES.")
    tensors: dict[str, Tensor] = {}
    for each in inputs:
        tensor = _read(each, binary, most)
        if tensor.name in tensors:
            raise InvalidRequest(f"Input {tensor.name!r} is given twice.")
        tensors[tensor.name] = tensor
    binary.check_end()
    if "image" not in tensors:
        raise NoImage('There is no input "image". Send one of BYTES, a picture\'s file for each element.')
    counts = {len(tensor.values) for tensor in tensors.values()}
    if len(counts) > 1:
        raise InvalidRequest("Inputs 'image' and 'target' differ in how many elements they have.")
    return tensors


def _read(given: Any, binary: Binary, most: int) -> Tensor:
    if not isinstance(given, dict):
        raise InvalidRequest("An input is not an object with name, shape, datatype and data.")
    name = given.get("name")
    if not isinstance(name, str) or name not in _INPUTS:
        raise InvalidRequest(f"There is no input {_shown(name)}. The model takes 'image' and, if you like, 'target'.")
    datatype = given.get("datatype")
    if datatype not in _INPUTS[name]:
        hint = " Pictures are sent as files (JPEG, PNG …), not as pixels." if name == "image" else ""
        raise InvalidRequest(
            f"Input {name!r} has the datatype {_shown(datatype)}, and takes {' or '.join(_INPUTS[name])}.{hint}"
        )
    count = _count(name, given.get("shape"), most)
    parameters = {} if given.get("parameters") is None else given["parameters"]
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"The parameters of input {name!r} are not an object.")
    if "shared_memory_region" in parameters:
        raise InvalidRequest("Shared memory is not read. Send the data in the request.")
    values = _values(given, parameters, datatype, count, binary)
    return Tensor(name, values, str(parameters.get("content_type", "")))


def _count(name: str, shape: Any, most: int) -> int:
    """Return how many elements a shape says there are.

    Raises:
        InvalidRequest: it is not [n] or [n, 1].
        NoImage, TooManyImages: n is none, or too many.
    """
    whole = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not whole or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)):
        raise InvalidRequest(f"Input {name!r} has the shape {_shown(shape)}; it must be [n] or [n, 1].")
    count: int = shape[0]
    if not count:
        raise NoImage(f"Input {name!r} is empty. Send at least one picture.")
    if count > most:
        raise TooManyImages(f"{shorten(str(count))} pictures are too many for one request; send {most} at most.")
    return count


def _values(
    given: Mapping[str, Any], parameters: Mapping[str, Any], datatype: str, count: int, binary: Binary
) -> list[Any]:
    name, size = given["name"], parameters.get("binary_data_size")
    if size is None:
        values = _flat(given.get("data"))
        kind = str if datatype == "BYTES" else int
        if any(type(value) is not kind for value in values):
            what = "whole numbers" if kind is int else "text" if name == "target" else "text (pictures in base64)"
            raise InvalidRequest(f"The data of input {name!r} is not a list of {what}.")
    elif "data" in given:
        raise InvalidRequest(f"Input {name!r} has both data and binary_data_size. Send one of them.")
    elif type(size) is not int or size < 0:
        raise InvalidRequest(f"binary_data_size of input {name!r} must be a whole number, 0 or more.")
    else:
        data = binary.take(size, name)
        values = _elements(data, name, count) if datatype == "BYTES" else _numbers(data, name, datatype)
    if len(values) != count:
        raise InvalidRequest(f"Input {name!r} has {len(values)} elements, and its shape says {count}.")
    return values


def _flat(data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidRequest("An input has neither a list of data nor binary_data_size.")
    nested = all(isinstance(each, list) for each in data)
    return [value for each in data for value in each] if nested else data


def _elements(data: memoryview, name: str, count: int) -> list[bytes]:
    """Split what has a length of four bytes, little-endian, before each element."""
    found: list[bytes] = []
    while data and len(found) < count:
        length = _LENGTH.unpack(data[:4])[0] if len(data) >= 4 else 0
        if len(data) < 4 + length:
            raise InvalidRequest(
                f"Element {len(found)} of input {name!r} says that it has {length} bytes, and fewer are left. Every "
                "element begins with its length: four bytes, little-endian."
            )
        found.append(bytes(data[4 : 4 + length]))
        data = data[4 + length :]
    if data:
        raise InvalidRequest(f"Input {name!r} has more bytes than its {count} elements.")
    return found


def _numbers(data: memoryview, name: str, datatype: str) -> list[int]:
    number = struct.Struct(f"<{_INTEGERS[datatype]}")
    if len(data) % number.size:
        raise InvalidRequest(f"Input {name!r} has {len(data)} bytes, which are no whole numbers of {datatype}.")
    return [value for (value,) in number.iter_unpack(data)]


def _shown(value: Any) -> str:
    return shorten(repr(value))
