"""The pictures of ``camserve evaluate``, as every model that is compared sees them."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from service.commands.flags import named, worded
from service.commands.pictures import images_in
from service.errors import InvalidOption, ServiceError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from service.evaluation.gathering import Folder
    from service.evaluation.pictures import Picture
    from service.models.info import ModelInfo
    from service.settings import Settings

__all__ = ["pictures_of_all"]

_NAMED = 5  # folders


def pictures_of_all(options: argparse.Namespace, settings: Settings, infos: Sequence[ModelInfo]) -> list[list[Picture]]:
    """Read the folder's pictures for every model, and leave out, with words, what one of them cannot be shown.

    Raises:
        FileNotFoundError: there are none.
        InvalidOption: what is marked cannot be read.
    """
    from service.evaluation.gathering import without_masks  # noqa: PLC0415

    folders = _folders(options, settings, infos)
    files = without_masks(images_in(options.folder), options.masks)
    found: list[list[Picture]] = [[] for _ in infos]
    for file in files:
        shown = [folder.picture(file) for folder in folders]
        pictures = [each for each in shown if not isinstance(each, ServiceError)]
        if len(pictures) < len(shown):
            refused = next(each for each in shown if isinstance(each, ServiceError))
            print(f"{named(file)}: {worded(refused)}", file=sys.stderr)
        else:
            for kept, picture in zip(found, pictures, strict=True):
                kept.append(picture)
    if not found[0]:
        raise FileNotFoundError(f"there is no picture in {options.folder}{' that can be used' if files else ''}")
    _tell_of_folders(found[0], infos[0])
    for folder, kept in zip(folders, found, strict=True):
        _require_marked(options, folder, files, kept)
    return found


def _folders(options: argparse.Namespace, settings: Settings, infos: Sequence[ModelInfo]) -> list[Folder]:
    """Return the folder as every model sees it.

    Raises:
        FileNotFoundError: there is none with masks.
        InvalidOption: a file with boxes cannot be read.
    """
    from service.evaluation.annotations import read_coco  # noqa: PLC0415
    from service.evaluation.gathering import Folder  # noqa: PLC0415
    from service.imaging.decode import DecodeLimits  # noqa: PLC0415

    if options.masks is not None and not options.masks.is_dir():
        raise FileNotFoundError(f"there is no folder {options.masks}")
    if options.boxes is not None and options.boxes.is_dir():
        raise InvalidOption(f"--boxes {options.boxes} is a folder: name the COCO file.")
    marked = None if options.boxes is None else read_coco(options.boxes)
    limits = DecodeLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_frames)
    return [Folder(options.folder, info, limits, marked, options.masks) for info in infos]


def _require_marked(
    options: argparse.Namespace, folder: Folder, files: Sequence[Path], pictures: Sequence[Picture]
) -> None:
    marks = options.boxes or options.masks
    if marks is None or any(picture.truths for picture in pictures):
        return
    if any(folder.is_marked(file) for file in files):
        raise InvalidOption(
            f"All that {marks} says of these pictures is empty, or cropped away before model {folder.info.name} sees "
            "it: mark where the objects are, or leave the flag out."
        )
    raise InvalidOption(
        f"Nothing in {marks} is about these pictures: file names must be the same, such as {pictures[0].name}."
    )


def _tell_of_folders(pictures: Sequence[Picture], info: ModelInfo) -> None:
    """Say which folders look like those of classes, and are not: a slip would otherwise pass unseen."""
    parents = Counter(PurePosixPath(each.name).parent.name for each in pictures if each.named is None)
    del parents[""]
    if parents:
        listed = ", ".join(f"{name!r} ({count})" for name, count in parents.most_common(_NAMED))
        more = f" and {len(parents) - _NAMED} more" if len(parents) > _NAMED else ""
        print(
            f"Folders that are no class of {info.name}, whose pictures may be of any: {listed}{more}.", file=sys.stderr
        )
