"""Pictures from a folder, with what their names and somebody's marks say of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import ServiceError
from service.evaluation.annotations import class_named, mask_file, read_mask, truths_of
from service.evaluation.pictures import Picture
from service.imaging.preprocess import decode_for, preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from service.evaluation.annotations import Marked
    from service.evaluation.pictures import Truth
    from service.imaging.decode import DecodeLimits
    from service.imaging.geometry import Geometry
    from service.models.info import ModelInfo

__all__ = ["Folder", "without_masks"]


def without_masks(files: Iterable[Path], masks: Path | None) -> list[Path]:
    """Leave out what is a mask of one of the others: masks may lie beside their pictures."""
    files = list(files)
    if masks is None:
        return files
    found = {mask for file in files if (mask := mask_file(file.parent, Path(file.name))) not in {None, file}}
    return [file for file in files if file not in found]


@dataclass(frozen=True)
class Folder:
    """Where pictures come from.

    Attributes:
        path: the folder; the folder that a picture lies in, below it, may be named after a class.
        info: of the model that will see them.
        limits: of a picture.
        marked: what a file of COCO says, by file name; None without.
        masks: the folder with masks; None without.
    """

    path: Path
    info: ModelInfo
    limits: DecodeLimits
    marked: Mapping[str, Marked] | None = None
    masks: Path | None = None

    def picture(self, file: Path) -> Picture | ServiceError:
        """Read a picture, or return what is wrong with it.

        Raises:
            InvalidOption: its mask cannot be read, or marks are of a picture of another size.
        """
        name = file.relative_to(self.path)
        try:
            image = decode_for(file.read_bytes(), self.limits, self.info.preprocess)
        except OSError as error:
            return ServiceError(f"The file cannot be read: {error.strerror}.")
        except ServiceError as error:
            return error
        prepared = preprocess(image, self.info.preprocess)
        named = class_named(name.parent.name, self.info) if name.parent.name else None
        told = os.fsencode(name.as_posix()).decode("utf-8", "replace")  # a name may be any bytes
        return Picture(told, prepared.pixels, prepared.geometry, named, self._truths(name, prepared.geometry))

    def is_marked(self, file: Path) -> bool:
        """Whether there are marks of that name, whatever they mark."""
        name = file.relative_to(self.path)
        return self._annotated(name) is not None or self._mask(name) is not None

    def _truths(self, name: Path, geometry: Geometry) -> dict[int | None, Truth]:
        if (marked := self._annotated(name)) is not None:
            return truths_of(marked, geometry, self.info)
        mask = self._mask(name)
        truth = None if mask is None else read_mask(mask, geometry, self.limits)
        return {} if truth is None else {None: truth}

    def _annotated(self, name: Path) -> Marked | None:
        marked = self.marked or {}
        return marked.get(name.as_posix()) or marked.get(name.name)

    def _mask(self, name: Path) -> Path | None:
        mask = None if self.masks is None else mask_file(self.masks, name)
        return None if mask == self.path / name else mask  # they lie beside each other, and it has none
