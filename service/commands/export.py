"""``camserve export``: predictions, regions and masks of a folder of pictures, as a file that a labelling tool imports.

What is done is kept in a journal beside the output, so that an export that was ended goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.asking import add_server, asked_model
from service.commands.flags import add_command, add_options, add_settings, named, worded
from service.commands.pictures import images_in, in_order, interruptible
from service.errors import OF_A_PICTURE, ServiceError
from service.options import OPTIONS

if TYPE_CHECKING:
    import argparse

    from service.commands.asking import Answered, AskedModel
    from service.export.about import About
    from service.export.journal import Journal
    from service.export.records import Record

__all__ = ["add"]

_FORMATS = ("label-studio", "coco", "fiftyone")
_OUT = {"label-studio": "label-studio.json", "coco": "coco.json", "fiftyone": "fiftyone"}
_LOCAL_FILES = "/data/local-files/?d="
# What is drawn is for the format to say.
_ASKED = (
    "top_k",
    "head",
    "layer",
    "target",
    "against",
    "method",
    "registration",
    "threshold",
    "smooth",
    "augment",
    "fuse",
)
_MOST_SIDE, _HEAT_SIDE = 8192, 256


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    export = add_command(
        commands, "export", _export, "write predictions and areas of a folder's pictures for a labelling tool"
    )
    export.add_argument("format", choices=_FORMATS, help="the tool, or the format that it imports")
    export.add_argument("folder", type=Path, metavar="FOLDER", help="folder with the pictures")
    export.add_argument("--out", type=Path, metavar="FILE", help="what is written: a file, or FiftyOne's folder")
    areas = export.add_mutually_exclusive_group()
    for flag, text in {
        "boxes": "the box of each area",
        "regions": "the outline of each area, as a polygon (if nothing is given)",
        "masks": "the pixels of each area",
    }.items():
        areas.add_argument(f"--{flag}", dest="shapes", action="store_const", const=flag, help=f"write {text}")
    export.set_defaults(shapes="regions")
    export.add_argument(
        "--image-url", default=_LOCAL_FILES, metavar="URL", help="Label Studio: what stands before a picture's path"
    )
    add_server(export)
    add_options(export, [OPTIONS[name] for name in _ASKED])
    add_settings(export)


def _export(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}")
    options.out = options.out or Path(_OUT[options.format])
    if options.out.exists() and options.out.is_dir() != (options.format == "fiftyone"):
        raise FileExistsError(
            f"{options.out} is there, and it is {'a folder' if options.out.is_dir() else 'no folder'}"
        )
    return asyncio.run(interruptible(_exported(options)))


def _drawn(options: argparse.Namespace) -> dict[str, Any]:
    """Return what has to be drawn for a record: masks, and for FiftyOne heatmaps."""
    heat = options.format == "fiftyone"
    masks = options.shapes == "masks"
    outputs = ("regions", "mask") if masks or heat else ("regions",)
    return {"output": outputs, "image_format": "png", "max_side": _MOST_SIDE if masks else _HEAT_SIDE}


async def _exported(options: argparse.Namespace) -> int:
    from service.export.journal import Journal  # noqa: PLC0415

    files = {_name(file, options.folder): file for file in images_in(options.folder)}
    if not files:
        raise FileNotFoundError(f"there is no picture in {options.folder}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    async with asked_model(options, _ASKED, _drawn(options)) as model:
        with Journal(options.out.with_name(f"{options.out.name}.journal"), _asked(options, model)) as journal:
            await _add_records(options, model, journal, files)
            return _write(options, model, journal, list(files))


def _name(file: Path, folder: Path) -> str:
    """Name a picture by its path from the folder; names that are no UTF-8 are made so."""
    return os.fsencode(file.relative_to(folder).as_posix()).decode(errors="replace")


def _asked(options: argparse.Namespace, model: AskedModel) -> dict[str, Any]:
    """Return what an export is of: one that was begun with other values is not gone on with."""
    asked = {name: getattr(options, name) for name in _ASKED}
    about = {"format": options.format, "shapes": options.shapes, "folder": str(options.folder.absolute())}
    return {**about, "model": model.name, "version": model.version, "digest": model.digest, **asked}


async def _add_records(
    options: argparse.Namespace, model: AskedModel, journal: Journal, files: dict[str, Path]
) -> None:
    """Ask for what the journal does not have yet.

    Raises:
        ServiceError: something is wrong with more than a picture.
    """
    from service.export.journal import stamp_of  # noqa: PLC0415

    stamps = {name: stamp_of(file) for name, file in files.items()}
    missing = [name for name in files if not journal.has(name, stamps[name])]
    names = {files[name]: name for name in missing}
    done = len(files) - len(missing)
    if done:
        print(f"{done} of {len(files)} pictures are done: {named(journal.path)} goes on", file=sys.stderr)
    async for file, answer in in_order(list(names), model.ask, model.at_once, total=len(files), done=done):
        if isinstance(answer, ServiceError) and not isinstance(answer, OF_A_PICTURE):
            raise answer
        journal.add(_record(options, names[file], answer), stamps[names[file]])


def _record(options: argparse.Namespace, name: str, answer: Answered | ServiceError) -> Record:
    from service.export.records import Record, record_of  # noqa: PLC0415

    if isinstance(answer, ServiceError):
        return Record(file=name, error=worded(answer))
    threshold = float(OPTIONS["threshold"].default if options.threshold is None else options.threshold)
    masks = threshold if options.shapes == "masks" else None
    heat = options.format == "fiftyone"
    return record_of(name, answer.image, answer.predictions, answer.explanations, masks=masks, heat=heat)


def _write(options: argparse.Namespace, model: AskedModel, journal: Journal, names: list[str]) -> int:
    from service.export import coco, fiftyone, label_studio  # noqa: PLC0415

    failed = {record.file: record.error for record in journal.records(names) if record.error is not None}
    good = [name for name in names if name not in failed]
    write = {"label-studio": label_studio.write, "coco": coco.write, "fiftyone": fiftyone.write}[options.format]
    written = write(options.out, lambda: journal.records(good), _about(options, model))
    for name, error in failed.items():
        print(f"{named(options.folder / name)}: {error}", file=sys.stderr)
    print(f"{len(good)} exported, {len(failed)} failed: {', '.join(named(path) for path in written)}")
    journal.remove()
    return 1 if failed else 0


def _about(options: argparse.Namespace, model: AskedModel) -> About:
    from service.export.about import About  # noqa: PLC0415

    layers = "+".join(model.layer if name == "default" else name for name in options.layer or ("default",))
    methods = "+".join(options.method or OPTIONS["method"].default)
    threshold = OPTIONS["threshold"].default if options.threshold is None else options.threshold
    version = f"{model.name}/{model.version}-{model.digest[:8]}/{layers}/{methods}@{float(threshold):g}"
    return About(options.folder, model.name, version, model.labels, options.shapes, options.image_url)
