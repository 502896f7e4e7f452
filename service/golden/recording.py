"""Where a model looked on chosen pictures, kept in a file, so that a later version can be compared with it.

The maps are kept as they lie on the pictures, as small grey PNGs: a later version may have other layers, another grid
or another input size. A picture takes about 2 KB.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from service import __version__
from service.areas import levels_in
from service.errors import InvalidOption, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from service import wire

__all__ = ["DRAWN", "RecordedMap", "RecordedModel", "RecordedPicture", "Recording", "class_spec", "recorded"]

DRAWN: dict[str, Any] = {"output": ("mask",), "image_format": "png", "max_side": 64, "size": "picture"}
"""Options of the requests whose answers are recorded, and compared."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RecordedMap(_Kept):
    """Where a layer saw evidence for a class.

    Attributes:
        layer: its name.
        method: by which the map was made.
        index: of the class.
        label: of the class.
        png: the map on the picture, grey, 255 its maximum, at most 64 pixels wide and high; base64.
    """

    layer: str
    method: str
    index: int
    label: str
    png: str

    def levels(self) -> NDArray[np.uint8]:
        """Return the map, (h, w), 0 to 255."""
        return levels_in(self.png)


class RecordedPicture(_Kept):
    """A picture, what the model said it is, and its maps.

    Attributes:
        file: its path from the recording's folder.
        sha256: of its bytes.
        index: of the class that was predicted.
        label: of that class.
        probability: of that class.
        maps: at least one.
    """

    file: str
    sha256: str
    index: int
    label: str
    probability: float
    maps: list[RecordedMap]


class RecordedModel(_Kept):
    """Which model it was."""

    name: str
    version: str
    digest: str


class Recording(_Kept):
    """What a file holds.

    Attributes:
        kind: of the file.
        format: of the file; another one is not read.
        camserve: the version that wrote it.
        model: whose maps they are.
        options: of the request that was made, without the defaults.
        pictures: in the order in which they were given.
    """

    kind: Literal["camserve golden"] = "camserve golden"
    format: Literal[1] = 1
    camserve: str = __version__
    model: RecordedModel
    options: dict[str, Any]
    pictures: list[RecordedPicture]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read a file.

        Raises:
            InvalidOption: it is no recording, or one of a later version of this program.
            OSError: it cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise InvalidOption(
                f"{path} is no recording that this version reads ({where}: {shorten(first['msg'])}). "
                "Record it again: camserve golden record."
            ) from error

    def write(self, path: Path) -> None:
        """Write it to a file, in the place of what is there, all at once."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)


def recorded(
    file: str,
    image: wire.ImageInfo,
    predictions: Sequence[wire.Prediction],
    explanations: Sequence[wire.Explanation],
) -> RecordedPicture:
    """Return what is kept of an answer to a request with the options ``DRAWN``."""
    first = predictions[0]
    return RecordedPicture(
        file=file,
        sha256=image.sha256,
        index=first.index,
        label=first.label,
        probability=round(first.probability, 6),
        maps=[_map(each) for each in explanations],
    )


def _map(explanation: wire.Explanation) -> RecordedMap:
    assert explanation.mask is not None
    return RecordedMap(
        layer=explanation.layer,
        method=explanation.method,
        index=explanation.target.index,
        label=explanation.target.label,
        png=explanation.mask.data,
    )


def class_spec(index: int, label: str, labels: Sequence[str]) -> str:
    """Return how a request names a recorded class to a model with these labels.

    Raises:
        InvalidOption: the model has no such class, or several.
    """
    if index < len(labels) and labels[index] == label:
        return f"#{index}"
    places = [place for place, name in enumerate(labels) if name == label]
    if len(places) == 1:
        return f"#{places[0]}"
    raise InvalidOption(
        f"The model has {'several classes' if places else 'no class'} {shorten(label)!r} now. "
        "Give it the labels that it had, or record it again."
    )
