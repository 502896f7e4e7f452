"""``camserve export``: predictions, regions and masks of a folder of pictures, as a file that a labelling tool imports.

What is done is kept in a journal beside the output, so that an export that was ended goes on where it was.
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.flags import add_command, add_options, add_settings, settings_of, worded
from service.commands.pictures import explained, images_in, in_order, interruptible, loaded, request_of
from service.errors import OF_A_PICTURE, InvalidImage, ServiceError
from service.options import OPTIONS

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable

    from service import wire
    from service.engine.explainer import Explainer
    from service.engine.request import Request
    from service.export.about import About
    from service.export.journal import Journal
    from service.export.records import Record

    Asking = Callable[[Path], Awaitable["_Answered | ServiceError"]]

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
_AT_ONCE = 4  # requests to a server


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
    export.add_argument("--server", metavar="URL", help="ask a running server; --model is then the name of its model")
    export.add_argument("--api-key-file", type=Path, metavar="FILE", help="file that holds a key of the server")
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


# -- answers, from this process or from a server ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Answered:
    """What a record is made of."""

    image: wire.ImageInfo
    predictions: list[wire.Prediction]
    explanations: list[wire.Explanation]


@dataclass(frozen=True)
class _Model:
    """What is asked: a model, and how."""

    name: str
    version: str
    digest: str
    layer: str
    labels: tuple[str, ...]
    ask: Asking
    at_once: int


def _drawn(options: argparse.Namespace) -> dict[str, Any]:
    """Return what has to be drawn for a record: masks, and for FiftyOne heatmaps."""
    heat = options.format == "fiftyone"
    masks = options.shapes == "masks"
    outputs = ("regions", "mask") if masks or heat else ("regions",)
    return {"output": outputs, "image_format": "png", "max_side": _MOST_SIDE if masks else _HEAT_SIDE}


@asynccontextmanager
async def _here(options: argparse.Namespace) -> AsyncIterator[_Model]:
    """Load the model in this process."""
    for name, value in _drawn(options).items():
        setattr(options, name, value)
    settings, asked = settings_of(options), request_of(options, "explain")
    async with loaded(settings, asked) as explainer:
        info = explainer.ready_info().head_view(None if asked.head is None else str(asked.head))
        ask = partial(_ask_here, explainer, asked)
        yield _Model(
            info.name, info.version, info.digest, info.default_layer, info.labels, ask, settings.max_batch_size
        )


async def _ask_here(explainer: Explainer, asked: Request, file: Path) -> _Answered | ServiceError:
    from service.protocols.native.responses import to_wire  # noqa: PLC0415

    answer = await explained(explainer, asked, file)
    if isinstance(answer, ServiceError):
        return answer
    (result,) = to_wire(answer, str(file)).results
    return _Answered(result.image, result.predictions, result.explanations)


@asynccontextmanager
async def _there(options: argparse.Namespace) -> AsyncIterator[_Model]:
    """Ask a running server."""
    from service.client import AsyncClient  # noqa: PLC0415

    if len(options.models or ()) > 1:
        raise ServiceError(
            "A server is asked for one model: give --model once, with the name that the server has for it."
        )
    key = options.api_key_file.read_text(encoding="utf-8").strip() if options.api_key_file else None
    asked = {name: value for name in _ASKED if (value := getattr(options, name)) is not None} | _drawn(options)
    async with AsyncClient(options.server, api_key=key, timeout=600.0) as client:
        entry = await client.model(options.models[0] if options.models else (await client.models()).default)
        found = await client.classes("", model=entry.name, head=options.head, limit=100_000)
        labels = tuple(each.label for each in found.classes)

        async def ask(file: Path) -> _Answered | ServiceError:
            try:
                answer = await client.explain(file, model=entry.name, **asked)
            except OSError as error:
                return InvalidImage(f"The file cannot be read: {error.strerror}.")
            except ServiceError as error:
                return error
            return _Answered(answer.image, list(answer.predictions), [each.raw for each in answer.explanations])

        version, digest, layer = entry.version or "", entry.digest or "", entry.default_layer or ""
        yield _Model(entry.name, version, digest, layer, labels, ask, _AT_ONCE)


# -- the export -------------------------------------------------------------------------------------------------------


async def _exported(options: argparse.Namespace) -> int:
    from service.export.journal import Journal  # noqa: PLC0415

    files = {_name(file, options.folder): file for file in images_in(options.folder)}
    if not files:
        raise FileNotFoundError(f"there is no picture in {options.folder}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    async with (_there if options.server else _here)(options) as model:
        with Journal(options.out.with_name(f"{options.out.name}.journal"), _asked(options, model)) as journal:
            await _add_records(options, model, journal, files)
            return _write(options, model, journal, list(files))


def _name(file: Path, folder: Path) -> str:
    """Name a picture by its path from the folder; names that are no UTF-8 are made so."""
    return os.fsencode(file.relative_to(folder).as_posix()).decode(errors="replace")


def _asked(options: argparse.Namespace, model: _Model) -> dict[str, Any]:
    """Return what an export is of: one that was begun with other values is not gone on with."""
    asked = {name: getattr(options, name) for name in _ASKED}
    about = {"format": options.format, "shapes": options.shapes, "folder": str(options.folder.absolute())}
    return {**about, "model": model.name, "version": model.version, "digest": model.digest, **asked}


async def _add_records(options: argparse.Namespace, model: _Model, journal: Journal, files: dict[str, Path]) -> None:
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
        print(f"{done} of {len(files)} pictures are done: {journal.path} goes on", file=sys.stderr)
    async for file, answer in in_order(list(names), model.ask, model.at_once, total=len(files), done=done):
        if isinstance(answer, ServiceError) and not isinstance(answer, OF_A_PICTURE):
            raise answer
        journal.add(_record(options, names[file], answer), stamps[names[file]])


def _record(options: argparse.Namespace, name: str, answer: _Answered | ServiceError) -> Record:
    from service.export.records import Record, record_of  # noqa: PLC0415

    if isinstance(answer, ServiceError):
        return Record(file=name, error=worded(answer))
    threshold = float(OPTIONS["threshold"].default if options.threshold is None else options.threshold)
    masks = threshold if options.shapes == "masks" else None
    heat = options.format == "fiftyone"
    return record_of(name, answer.image, answer.predictions, answer.explanations, masks=masks, heat=heat)


def _write(options: argparse.Namespace, model: _Model, journal: Journal, names: list[str]) -> int:
    from service.export import coco, fiftyone, label_studio  # noqa: PLC0415

    failed = {record.file: record.error for record in journal.records(names) if record.error is not None}
    good = [name for name in names if name not in failed]
    write = {"label-studio": label_studio.write, "coco": coco.write, "fiftyone": fiftyone.write}[options.format]
    written = write(options.out, lambda: journal.records(good), _about(options, model))
    for name, error in failed.items():
        print(f"{options.folder / name}: {error}", file=sys.stderr)
    print(f"{len(good)} exported, {len(failed)} failed: {', '.join(str(path) for path in written)}")
    journal.remove()
    return 1 if failed else 0


def _about(options: argparse.Namespace, model: _Model) -> About:
    from service.export.about import About  # noqa: PLC0415

    layers = "+".join(model.layer if name == "default" else name for name in options.layer or ("default",))
    methods = "+".join(options.method or OPTIONS["method"].default)
    threshold = OPTIONS["threshold"].default if options.threshold is None else options.threshold
    version = f"{model.name}/{model.version}-{model.digest[:8]}/{layers}/{methods}@{float(threshold):g}"
    return About(options.folder, model.name, version, model.labels, options.shapes, options.image_url)
