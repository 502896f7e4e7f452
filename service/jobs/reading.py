"""Reads what somebody sent for an evaluation, in the processes that look at it and that compute it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from service.errors import InvalidOption, ServiceError
from service.evaluation.annotations import class_named, read_coco, read_mask, truths_of
from service.evaluation.pictures import Picture
from service.imaging.preprocess import decode_for, preprocess
from service.jobs.material import ANNOTATIONS, MATERIAL, Material, Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from service.evaluation.annotations import Marked
    from service.evaluation.pictures import Truth
    from service.imaging.decode import DecodeLimits
    from service.imaging.geometry import Geometry
    from service.jobs.material import Image
    from service.models.info import ModelInfo

__all__ = ["marked_on", "pictures_of"]


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
    decoded = decode_for((folder / image.file).read_bytes(), limits, info.preprocess)
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
