"""The process that looks at what was sent for an evaluation before it is taken: whatever that is, only this dies of it.

It decodes nothing: headers of pictures are compared with the limits, and what is marked is read. Needs no torch.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections import Counter, defaultdict
from contextlib import suppress
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from service.engine.workers.ending import die_with_the_front
from service.errors import BodyTooLarge, ImageTooLarge, InvalidOption, NoImage, ServiceError
from service.evaluation.annotations import read_coco
from service.imaging.decode import DecodeLimits, read_header
from service.jobs.material import ANNOTATIONS, MATERIAL, Image, Look, Material, Skipped
from service.jobs.reading import marked_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.evaluation.annotations import Marked
    from service.imaging.decode import Header

__all__ = ["look_at", "main", "told"]

_MEMORY_BYTES = 4 << 30  # most of it addresses that numpy's threads reserve and never use
_SECONDS = 120
_MOST_BOXES, _MOST_POINTS = 1000, 100_000  # on one picture


def main() -> None:
    """Look at what standard input names; tell what is left on the descriptor that is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_the_front()
    os.nice(5)
    for what, most in ((resource.RLIMIT_AS, _MEMORY_BYTES), (resource.RLIMIT_CPU, _SECONDS)):
        with suppress(ValueError, OSError):  # other systems than Linux, or a lower limit that there is already
            resource.setrlimit(what, (most, most))
    look = Look.model_validate_json(sys.stdin.buffer.read())
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:
        json.dump(told(look), pipe)
        pipe.write("\n")


def told(look: Look) -> dict[str, object]:
    """Look, write down what is left, and return what is told of it."""
    limits = DecodeLimits(look.max_image_bytes, look.max_image_pixels, look.max_image_frames)
    try:
        found = look_at(look.folder, look.material, limits)
    except ServiceError as error:
        return {"code": error.code, "message": error.message}
    except MemoryError:
        return {"code": BodyTooLarge.code, "message": "What is marked takes too much memory to read. Send less of it."}
    try:
        (look.folder / MATERIAL).write_text(found.model_dump_json(), encoding="utf-8")
    except OSError as error:
        return {"errno": error.errno}
    return {"images": len(found.images), "marked": found.marked, "skipped": [s.model_dump() for s in found.skipped]}


def look_at(folder: Path, material: Material, limits: DecodeLimits) -> Material:
    """Return what can be used of what was sent, whose files lie in a folder.

    Raises:
        NoImage: no picture can be used.
        InvalidOption: masks or annotations cannot be used, or belong to no picture.
    """
    skipped: list[Skipped] = []
    headers: dict[str, Header] = {}
    for image in material.images:
        try:
            headers[image.file] = _header(folder / image.file, limits)
        except ServiceError as error:
            skipped.append(Skipped(name=image.name, code=error.code, text=error.message))
    usable = [image for image in material.images if image.file in headers]
    marks = material.annotations or bool(material.masks)
    images = _told_apart(usable, skipped, marks=marks)
    if not images:
        told = f" {skipped[0].name}: {skipped[0].text}" if skipped else ""
        raise NoImage(f"There is no picture that can be used.{told}")
    images = _with_masks(images, _mask_headers(folder, material.masks, limits), headers, skipped)
    marked = sum(image.mask is not None for image in images)
    if material.annotations:
        marked = _marked(images, _coco(folder / ANNOTATIONS))
    if marks and not marked:
        raise InvalidOption(
            f"Nothing that is marked is about these pictures: file names must be the same, such as {images[0].name}."
        )
    return Material(images=tuple(images), annotations=material.annotations, marked=marked, skipped=tuple(skipped))


def _header(file: Path, limits: DecodeLimits) -> Header:
    if file.stat().st_size > limits.max_bytes:
        raise ImageTooLarge(f"The picture has more than {limits.max_bytes} bytes. Send a smaller one.")
    return read_header(file.read_bytes(), limits)


def _told_apart(images: Sequence[Image], skipped: list[Skipped], *, marks: bool) -> list[Image]:
    """Give pictures of one name further ones; where something is marked, nobody knows on which of them it is."""
    kept: list[Image] = []
    times: Counter[str] = Counter()
    taken = {image.name for image in images}
    for image in images:
        times[image.name] += 1
        if times[image.name] == 1:
            kept.append(image)
        elif marks:
            text = "Another picture has this name, so that nobody can tell on which of them something is marked."
            skipped.append(Skipped(name=image.name, code="name_taken", text=text))
        else:
            path = PurePosixPath(image.name)
            others = (
                str(path.with_name(f"{path.stem} ({number}){path.suffix}")) for number in count(times[image.name])
            )
            other = next(name for name in others if name not in taken)
            taken.add(other)
            kept.append(image.model_copy(update={"name": other}))
    return kept


def _mask_headers(folder: Path, masks: Sequence[Image], limits: DecodeLimits) -> list[tuple[Image, Header]]:
    found: list[tuple[Image, Header]] = []
    for mask in masks:
        try:
            found.append((mask, _header(folder / mask.file, limits)))
        except ServiceError as error:
            raise InvalidOption(f"The mask {mask.name} cannot be read: {error.message}") from error
    return found


def _with_masks(
    images: Sequence[Image],
    masks: Sequence[tuple[Image, Header]],
    headers: Mapping[str, Header],
    skipped: list[Skipped],
) -> list[Image]:
    """Give each picture its mask: the one of the same name, with whatever ending."""
    owners = _by_names(images)
    found: dict[str, str] = {}
    for mask, header in masks:
        owner = _owner(mask.name, owners)
        if isinstance(owner, str):
            skipped.append(Skipped(name=mask.name, code="mask_of_nothing", text=owner))
        elif owner.name in found:
            text = f"Another mask is that of {owner.name} already: send one for each picture."
            skipped.append(Skipped(name=mask.name, code="name_taken", text=text))
        else:
            _check_size(mask, header, headers[owner.file])
            found[owner.name] = mask.file
    return [image.model_copy(update={"mask": found.get(image.name)}) for image in images]


def _by_names(images: Sequence[Image]) -> dict[str, list[Image]]:
    """Return pictures by their names, by these without an ending, and by those without a folder."""
    found: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        for name in dict.fromkeys((image.name, _bare(image.name), _bare(PurePosixPath(image.name).name))):
            found[name].append(image)
    return found


def _owner(name: str, owners: Mapping[str, list[Image]]) -> Image | str:
    """Return the picture that a mask belongs to, or why none is known."""
    found = [image for image in owners.get(name, ()) if image.name == name] or owners.get(_bare(name), [])
    found = [image for image in found if _bare(image.name) == _bare(name)] or found
    if len(found) == 1:
        return found[0]
    if found:
        return f"It may be the mask of {found[0].name} or of {found[1].name}: send it under the whole name of one."
    return "It is the mask of no picture here: the name must be that of its picture."


def _bare(name: str) -> str:
    path = PurePosixPath(name)
    return f"{path.parent}/{path.stem.removesuffix('.mask')}"


def _check_size(mask: Image, header: Header, picture: Header) -> None:
    if (header.width, header.height) != (picture.width, picture.height):
        raise InvalidOption(
            f"The mask {mask.name} has {header.width}×{header.height} pixels, its picture "
            f"{picture.width}×{picture.height}: they must be of one size."
        )


def _coco(file: Path) -> dict[str, Marked]:
    try:
        return read_coco(file)
    except InvalidOption as error:
        raise InvalidOption(error.message.replace(str(file), "'annotations'")) from error


def _marked(images: Sequence[Image], marked: Mapping[str, Marked]) -> int:
    """Return on how many pictures something is marked.

    Raises:
        InvalidOption: there is too much of it on one.
    """
    found = [(image, marks) for image in images if (marks := marked_on(image.name, marked)) is not None]
    for image, marks in found:
        boxes = sum(map(len, marks.boxes.values()))
        points = sum(len(polygon) for polygons in marks.polygons.values() for polygon in polygons)
        if boxes > _MOST_BOXES or points > 2 * _MOST_POINTS:
            raise InvalidOption(
                f"On {image.name} there are {boxes:,} boxes and {points // 2:,} points of outlines. "
                f"{_MOST_BOXES:,} and {_MOST_POINTS:,} at most can be evaluated on one picture."
            )
    return len(found)
