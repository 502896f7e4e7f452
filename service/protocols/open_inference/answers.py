"""The engine's answers as tensors: in JSON, or in binary behind it."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_json

from service.errors import InvalidOption, RequestTooCostly
from service.imaging.enlarge import enlarge, enlarged_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from service.engine.answers import Answer, ImageAnswer, MapAnswer
    from service.protocols.open_inference.requests import Asked

__all__ = ["encoded"]

# Numbers in JSON take ten times the room, and are slow to write and to read.
_MAX_IN_JSON = 2**18


@dataclass(frozen=True)
class _Output:
    """A tensor of the answer; ``values`` are numbers (any shape), or as many texts or files as the shape says."""

    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | Sequence[bytes]

    @property
    def binary(self) -> bytes:
        """Its data, little-endian and in C order; elements of BYTES with their length in front."""
        if isinstance(self.values, np.ndarray):
            return self.values.astype(self.values.dtype.newbyteorder("<"), copy=False).tobytes()
        return b"".join(struct.pack("<I", len(each)) + each for each in self.values)


def encoded(answer: Answer, asked: Asked, most_bytes: int) -> tuple[bytes, list[bytes]]:
    """Return the JSON of an answer, and what stands behind it.

    Args:
        answer: of the engine.
        asked: which outputs, and how.
        most_bytes: of an enlarged heatmap.

    Raises:
        ServiceError: a picture's own, unless the output ``error`` is asked for.
        InvalidOption: maps that do not fit into one tensor, or too much in JSON.
        RequestTooCostly: the heatmap is too large.
    """
    if "error" not in asked.outputs:
        _raise_first(answer.images)
    makers: Mapping[str, Callable[[], _Output]] = {
        "heatmap": lambda: _heatmap(answer, asked, most_bytes),
        "overlay": lambda: _texts([_overlay(image) for image in answer.images]),
        "class_id": lambda: _numbers(answer, "index", np.int64, -1),
        "score": lambda: _numbers(answer, "probability", np.float32, 0),
        "label": lambda: _labels(answer),
        "entropy": lambda: _certainty(answer, "entropy"),
        "margin": lambda: _certainty(answer, "margin"),
        "mass_inside": lambda: _of_map(answer, "mass_inside"),
        "flip_stability": lambda: _of_map(answer, "flip_stability"),
        "layer_agreement": lambda: _of_map(answer, "layer_agreement"),
        "error": lambda: _texts([_said(image) for image in answer.images]),
    }
    described, behind = [], []
    for name, in_binary in asked.outputs.items():
        output = makers[name]()
        entry: dict[str, Any] = {"name": name, "datatype": output.datatype, "shape": list(output.shape)}
        if in_binary:
            behind.append(output.binary)
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry |= _in_json(name, output)
        described.append(entry)
    about = {"model_name": answer.model.name, "model_version": answer.model.version}
    about |= {} if asked.id is None else {"id": asked.id}
    return to_json({**about, "outputs": described}), behind


def _raise_first(images: Sequence[ImageAnswer]) -> None:
    for image in images:
        if (error := image.error) is not None:
            raise type(error)(
                f"Picture {image.index} of 'image': {error.message} Ask for the output 'error', and the others are "
                "answered.",
                **error.details,
            )


def _in_json(name: str, output: _Output) -> dict[str, Any]:
    if not isinstance(output.values, np.ndarray):
        if name != "overlay":
            return {"data": [each.decode() for each in output.values]}
        data = [base64.b64encode(each).decode("ascii") for each in output.values]
        return {"parameters": {"content_type": "base64"}, "data": data}
    if output.values.size > _MAX_IN_JSON:
        raise InvalidOption(
            f"Output {name!r} has {output.values.size:,} numbers, too many for JSON. Ask for it with "
            '{"parameters": {"binary_data": true}}, or for a smaller size.'
        )
    return {"data": output.values.ravel().tolist()}


def _heatmap(answer: Answer, asked: Asked, most_bytes: int) -> _Output:
    images = [image for image in answer.images if image.error is None]
    side = asked.request.max_side
    shapes = {_shape(image, asked, side) for image in images}
    if len(shapes) > 1:
        raise InvalidOption(
            "The maps have different sizes and do not fit into one tensor. Set 'size' to 'model', or send pictures of "
            "one size."
        )
    (shape,) = shapes
    values = 4 * len(answer.images) * shape[0] * shape[1]
    if values > most_bytes:
        raise RequestTooCostly(
            f"The heatmap would have {values:,} bytes; {most_bytes:,} are allowed. Lower 'max_side', or send fewer "
            "pictures.",
            factor="max_side",
        )
    maps = np.zeros((len(answer.images), *shape), np.float32)
    for image in images:
        found = _only(image)
        assert image.geometry is not None
        maps[image.index] = enlarge(found.raw, image.geometry, asked.size, side, found.placement)
    return _Output("FP32", maps.shape, maps)


def _shape(image: ImageAnswer, asked: Asked, max_side: int) -> tuple[int, int]:
    assert image.geometry is not None
    height, width = _only(image).raw.shape
    return enlarged_shape(asked.size, image.geometry, (height, width), max_side)


def _only(image: ImageAnswer) -> MapAnswer:
    """Return the map of a picture; of several layers that are compared, that of the first.

    Raises:
        InvalidOption: there are several.
    """
    first = image.explanations[0]
    if sum(each.layer == first.layer for each in image.explanations) != 1:
        raise InvalidOption("A tensor holds one map for each picture: ask for one target, not for the best few.")
    return first


def _overlay(image: ImageAnswer) -> bytes:
    overlay = None if image.error else _only(image).rendered.overlay
    return b"" if overlay is None else overlay.data


def _said(image: ImageAnswer) -> bytes:
    return b"" if image.error is None else image.error.message.encode()


def _texts(values: list[bytes]) -> _Output:
    return _Output("BYTES", (len(values),), values)


def _k(answer: Answer) -> int:
    return max(len(image.predictions) for image in answer.images)


def _numbers(answer: Answer, field: str, dtype: type[np.generic], missing: int) -> _Output:
    """Return a number of every class that is listed; ``missing`` in the rows of pictures that failed."""
    values = np.full((len(answer.images), _k(answer)), missing, dtype)
    for image in answer.images:
        if image.error is None:
            values[image.index] = [getattr(score, field) for score in image.predictions]
    return _Output("INT64" if dtype is np.int64 else "FP32", values.shape, values)


def _certainty(answer: Answer, field: str) -> _Output:
    """Return a score of every picture's prediction; 0 for those that failed."""
    values = [getattr(image.scores, field, None) or 0.0 for image in answer.images]
    return _Output("FP32", (len(values),), np.array(values, np.float32))


def _of_map(answer: Answer, field: str) -> _Output:
    """Return a score of every picture's map; 0 where there is none, for the map is empty or the picture failed."""
    maps = [None if image.error else _only(image) for image in answer.images]
    values = [0.0 if found is None else getattr(found.scores, field, None) or 0.0 for found in maps]
    return _Output("FP32", (len(values),), np.array(values, np.float32))


def _labels(answer: Answer) -> _Output:
    k = _k(answer)
    rows = [[score.label for score in image.predictions] or [""] * k for image in answer.images]
    return _Output("BYTES", (len(rows), k), [label.encode() for row in rows for label in row])
