"""``camserve golden``: record where a model looks on chosen pictures, and fail when a later version looks elsewhere."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.commands.asking import add_server, asked_model
from service.commands.flags import add_command, add_options, add_settings, named, worded
from service.commands.pictures import find_images, in_order, interruptible
from service.errors import InvalidImage, InvalidOption, ServiceError, writable
from service.options import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.commands.asking import AskedModel
    from service.golden.recording import RecordedMap, RecordedPicture, Recording
    from service.golden.report import ComparedPicture

__all__ = ["add"]

_ASKED = ("head", "layer", "target", "against", "method", "registration", "smooth", "augment", "fuse")
_TOLERANCE = 0.1
_ANY = 2**31  # pixels, frames


def add(commands: Any) -> None:
    """Add the command to the parser's, with one for each thing to do."""
    golden = commands.add_parser("golden", help="a regression test of where a model looks", description=__doc__)
    actions = golden.add_subparsers(required=True, metavar="ACTION", dest="action")
    record = add_command(actions, "record", _record, "record the maps of pictures")
    record.add_argument("files", nargs="+", metavar="FILE", help="picture, folder or glob pattern")
    record.add_argument("--out", type=Path, default=Path("golden.json"), metavar="FILE", help="what is written")
    add_options(record, [OPTIONS[name] for name in _ASKED])
    check = add_command(actions, "check", _check, "compare a model's maps with recorded ones")
    check.add_argument("recording", type=Path, metavar="FILE", help="what golden record wrote; pictures lie beside it")
    check.add_argument(
        "--tolerance",
        type=_share,
        default=_TOLERANCE,
        metavar="SHARE",
        help=f"the share of a map's mass that may lie elsewhere, 0 to 1; {_TOLERANCE:g} if nothing is given",
    )
    check.add_argument("--out", type=Path, default=Path("golden-moved"), metavar="DIR", help="pictures of differences")
    check.add_argument("--json", action="store_true", help="print JSON")
    for parser in (record, check):
        add_server(parser)
        add_settings(parser)


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError("it is a share, 0 to 1")
    return share


# -- record -----------------------------------------------------------------------------------------------------------


def _record(options: argparse.Namespace) -> int:
    return asyncio.run(interruptible(_recorded(options, list(find_images(options.files)))))


def _from(folder: Path, file: Path) -> str:
    """Return the way from a folder to a file."""
    return Path(os.path.relpath(file.absolute(), folder)).as_posix()


async def _recorded(options: argparse.Namespace, files: Sequence[Path]) -> int:
    from service.golden.recording import DRAWN, RecordedModel, Recording, recorded  # noqa: PLC0415

    names = {file: _from(options.out.absolute().parent, file) for file in files}
    pictures: list[RecordedPicture] = []
    failed = 0
    async with asked_model(options, _ASKED, DRAWN) as model:
        async for file, answer in in_order(files, model.ask, model.at_once, total=len(files)):
            if isinstance(answer, ServiceError):
                failed += 1
                print(f"{named(file)}: {worded(answer)}", file=sys.stderr)
                continue
            pictures.append(recorded(names[file], answer.image, answer.predictions, answer.explanations))
        about = RecordedModel(name=model.name, version=model.version, digest=model.digest)
    given = {name: value for name in _ASKED if (value := getattr(options, name)) is not None}
    if pictures:
        Recording(model=about, options=given, pictures=pictures).write(options.out)
    print(f"{len(pictures)} recorded, {failed} failed: {named(options.out)}")
    return 1 if failed or not pictures else 0


# -- check ------------------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from service.golden.recording import Recording  # noqa: PLC0415

    recording = Recording.read(options.recording)
    for name in _ASKED:
        setattr(options, name, recording.options.get(name))
    return asyncio.run(interruptible(_checked(options, recording)))


async def _checked(options: argparse.Namespace, recording: Recording) -> int:
    from service.golden.recording import DRAWN, RecordedModel  # noqa: PLC0415
    from service.golden.report import Report  # noqa: PLC0415

    folder = options.recording.absolute().parent
    files = {folder / each.file: each for each in recording.pictures}
    async with asked_model(options, _ASKED, DRAWN) as model:
        one = partial(_compared, options, model, files)
        found = [each async for _, each in in_order(list(files), one, model.at_once, total=len(files))]
        now = RecordedModel(name=model.name, version=model.version, digest=model.digest)
    report = Report(recording.model, now, options.tolerance, found)
    print(report.as_json() if options.json else writable(report.as_text()))
    return 0 if report.passed else 1


async def _compared(
    options: argparse.Namespace, model: AskedModel, files: Mapping[Path, RecordedPicture], file: Path
) -> ComparedPicture:
    """Ask for the recorded classes of a picture, and compare their maps."""
    from service.golden.report import ComparedPicture  # noqa: PLC0415

    before = files[file]
    try:
        data = _read(file, before)
        after = await _asked_again(model, before, file)
    except ServiceError as error:
        return ComparedPicture(before, error=worded(error))
    found = ComparedPicture(before, after)
    for number, moved in enumerate(found.moved):
        if moved > options.tolerance:
            drawn = options.out / f"{_stem(before, number)}.png"
            _draw(drawn, data, before.maps[number], after.maps[number])
            found.drawn[number] = drawn
    return found


def _read(file: Path, before: RecordedPicture) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidImage(f"The file cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != before.sha256:
        raise InvalidImage("The picture is another one than was recorded. Record it again.")
    return data


async def _asked_again(model: AskedModel, before: RecordedPicture, file: Path) -> RecordedPicture:
    """Ask for the classes that were explained, whatever is predicted now."""
    from service.golden.recording import class_spec, recorded  # noqa: PLC0415

    first = before.maps[0]
    asked = [each for each in before.maps if (each.layer, each.method) == (first.layer, first.method)]
    targets = [class_spec(each.index, each.label, model.labels) for each in asked]
    answer = await model.ask(file, target=targets)
    if isinstance(answer, ServiceError):
        raise answer
    if len(answer.explanations) != len(before.maps):
        raise InvalidOption(
            f"There are {len(answer.explanations)} maps now, and {len(before.maps)} were recorded. Record it again."
        )
    return recorded(before.file, answer.image, answer.predictions, answer.explanations)


def _stem(picture: RecordedPicture, number: int) -> str:
    """Name the picture of a difference after what it is of."""
    of = picture.maps[number]
    parts = (*Path(picture.file).with_suffix("").parts, of.layer, of.method, of.label)
    return "-".join(re.sub(r"[^\w.+-]", "_", part)[:60] for part in parts if part != "..")


def _draw(path: Path, data: bytes, before: RecordedMap, after: RecordedMap) -> None:
    from service.imaging.decode import DecodeLimits, decode  # noqa: PLC0415
    from service.imaging.difference import draw_difference  # noqa: PLC0415

    rgb = decode(data, DecodeLimits(len(data), _ANY, _ANY)).rgb  # it was answered: within what whoever answered allows
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_difference(rgb, before.levels(), after.levels(), str(OPTIONS["colormap"].default)).save(path)
