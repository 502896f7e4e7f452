"""What somebody sent for an evaluation: pictures, and what is marked on them. Files have numbers, no names."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from service.errors import InvalidOption, ServiceError
from service.evaluation.annotations import class_named, read_coco, read_mask, truths_of
from service.evaluation.pictures import Picture
from service.imaging.decode import decode
from service.imaging.preprocess import preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from service.evaluation.annotations import Marked
    from service.evaluation.pictures import Truth
    from service.imaging.decode import DecodeLimits
    from service.imaging.geometry import Geometry
    from service.models.info import ModelInfo

__all__ = ["ANNOTATIONS", "MATERIAL", "PICTURES", "Image", "Look", "Material", "Skipped", "pictures_of"]

PICTURES = "pictures"
"""The folder, in that of a job, with what was sent."""
ANNOTATIONS, MATERIAL = "annotations", "material.json"
"""In it, a file of COCO, and what the other files are."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)


class Image(_Kept):
    """A picture, or a mask.

    Attributes:
        file: its name in the folder.
        name: under which it was sent.
        mask: the file of its mask.
    """

    file: str
    name: str
    mask: str | None = None


class Skipped(_Kept):
    """A file that is left out.

    Attributes:
        name: under which it was sent.
        code: of what is wrong with it.
        text: the same in words.
    """

    name: str
    code: str
    text: str


class Material(_Kept):
    """All that was sent.

    Attributes:
        images: the pictures.
        masks: the masks that were sent; those that belong to a picture stand there, too.
        annotations: whether there is a file of COCO.
        marked: pictures on which something is marked.
        skipped: what is left out.
    """

    images: tuple[Image, ...] = ()
    masks: tuple[Image, ...] = ()
    annotations: bool = False
    marked: int = 0
    skipped: tuple[Skipped, ...] = ()


class Look(_Kept):
    """What the process that looks at what was sent is told; it goes there as JSON."""

    folder: Path
    material: Material
    max_image_bytes: int
    max_image_pixels: int
    max_image_frames: int


def pictures_of(folder: Path, info: ModelInfo, limits: DecodeLimits) -> Iterator[Picture | Skipped]:
    """Read the pictures of a folder for a model; of one that cannot be read, what is wrong with it."""
    material = Material.model_validate_json((folder / MATERIAL).read_bytes())
    marked = read_coco(folder / ANNOTATIONS) if material.annotations else {}
    for image in material.images:
        try:
            yield _picture(folder, image, info, limits, marked)
        except ServiceError as error:
            yield Skipped(name=image.name, code=error.code, text=error.message)


def _picture(
    folder: Path, image: Image, info: ModelInfo, limits: DecodeLimits, marked: Mapping[str, Marked]
) -> Picture:
    decoded = decode((folder / image.file).read_bytes(), limits, info.preprocess.channels)
    prepared = preprocess(decoded, info.preprocess)
    parent = PurePosixPath(image.name).parent.name
    named = class_named(parent, info) if parent else None
    if image.mask is not None:
        truths = _masked(folder / image.mask, image, prepared.geometry, limits)
    else:
        found = marked_on(image.name, marked)
        truths = {} if found is None else truths_of(found, prepared.geometry, info)
    return Picture(image.name, prepared.pixels, prepared.geometry, named, truths)


def marked_on(name: str, marked: Mapping[str, Marked]) -> Marked | None:
    """Return what a file of COCO says of a picture, by its name with or without its folders."""
    return marked.get(name) or marked.get(PurePosixPath(name).name)


def _masked(file: Path, image: Image, geometry: Geometry, limits: DecodeLimits) -> dict[int | None, Truth]:
    try:
        truth = read_mask(file, geometry, limits)
    except InvalidOption as error:  # its message names our file
        raise InvalidOption(error.message.replace(str(file), f"of {image.name}")) from error
    return {} if truth is None else {None: truth}
