"""``camserve evaluate``: which layer and method to explain a model with, measured on a folder of pictures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from service.commands.asking import add_server
from service.commands.evaluation_table import table
from service.commands.flags import add_command, add_settings, find_own_code, settings_of, worded
from service.commands.pictures import images_in
from service.errors import InvalidOption, ServiceError
from service.evaluation.asked import Purpose

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from service.evaluation.outcome import Outcome
    from service.evaluation.pictures import Picture
    from service.evaluation.run import Run
    from service.models.host import ModelHost
    from service.models.info import ModelInfo
    from service.settings import Settings

__all__ = ["add"]


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = add_command(
        commands, "evaluate", _evaluate, "measure which layer and method explain a model best, on your own pictures"
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        metavar="FOLDER",
        help="folder with pictures; folders within may be named after classes",
    )
    parser.add_argument("--layers", nargs="+", metavar="LAYER", help="layers to compare; one per stage if left out")
    parser.add_argument(
        "--methods", nargs="+", metavar="METHOD", default=["gradcam"], help="methods to compare; gradcam if left out"
    )
    parser.add_argument(
        "--purpose",
        action="append",
        choices=get_args(Purpose),
        help="what maps are wanted for; all if left out. Repeatable.",
    )
    marks = parser.add_mutually_exclusive_group()
    marks.add_argument("--boxes", type=Path, metavar="FILE", help="COCO file that says where objects are")
    marks.add_argument("--masks", type=Path, metavar="FOLDER", help="folder with a mask, NAME.png, for each picture")
    parser.add_argument("--seed", type=int, default=0, help="what all chance follows from; %(default)s if left out")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report, one HTML file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON; - prints them")
    parser.add_argument("--list", action="store_true", help="list the evaluations of a server")
    parser.add_argument("--cancel", metavar="ID", help="cancel one of them, and forget it")
    add_server(parser)
    add_settings(parser)


def _evaluate(options: argparse.Namespace) -> int:
    from service.evaluation.outcome import outcome_of  # noqa: PLC0415

    if options.server:
        from service.commands.evaluate_there import evaluate_there  # noqa: PLC0415

        return evaluate_there(options)
    if options.list or options.cancel:
        raise InvalidOption("Evaluations are listed and cancelled behind a server: give --server, too.")
    if options.folder is None:
        raise InvalidOption("Name the folder with the pictures.")
    if not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}")
    began = time.monotonic()
    settings = settings_of(options)
    host = _loaded(settings)
    run = _run(options, host, _pictures(options, settings, host.info))
    _finish(run)
    outcome = outcome_of(run)
    if str(options.json) != "-":
        print("\n".join(table(outcome.as_json())))
    _write(options, outcome, time.monotonic() - began)
    return 0


def _loaded(settings: Settings) -> ModelHost:
    import torch  # noqa: PLC0415

    from service.engine.workers.executor import devices_for, require_device  # noqa: PLC0415
    from service.models.loading import load_model  # noqa: PLC0415
    from service.models.sources.source import Downloads  # noqa: PLC0415

    find_own_code()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = devices_for(settings.device)[0]
    require_device(device)
    downloads = Downloads(settings.cache_dir, settings.allow_download, settings.weights_mirror)
    return load_model(settings.models[0], device, downloads)


def _pictures(options: argparse.Namespace, settings: Settings, info: ModelInfo) -> list[Picture]:
    """Read the folder's pictures; say which cannot be.

    Raises:
        FileNotFoundError: there are none.
        InvalidOption: what is marked cannot be read.
    """
    from service.evaluation.annotations import read_coco  # noqa: PLC0415
    from service.evaluation.gathering import Folder, without_masks  # noqa: PLC0415
    from service.imaging.decode import DecodeLimits  # noqa: PLC0415

    if options.masks is not None and not options.masks.is_dir():
        raise FileNotFoundError(f"there is no folder {options.masks}")
    limits = DecodeLimits(settings.max_image_bytes, settings.max_image_pixels, settings.max_image_frames)
    marked = None if options.boxes is None else read_coco(options.boxes)
    folder = Folder(options.folder, info, limits, marked, options.masks)
    found: list[Picture] = []
    for file in without_masks(images_in(options.folder), options.masks):
        picture = folder.picture(file)
        if isinstance(picture, ServiceError):
            print(f"{file}: {worded(picture)}", file=sys.stderr)
        else:
            found.append(picture)
    if not found:
        raise FileNotFoundError(f"there is no picture in {options.folder}")
    if (options.boxes or options.masks) and not any(picture.truths for picture in found):
        raise InvalidOption(
            f"Nothing in {options.boxes or options.masks} is about these pictures: file names must be the same, "
            f"such as {found[0].name}."
        )
    return found


def _run(options: argparse.Namespace, host: ModelHost, pictures: Sequence[Picture]) -> Run:
    from service.evaluation.asked import PURPOSES, Asked  # noqa: PLC0415
    from service.evaluation.candidates import arms_of, default_layers  # noqa: PLC0415
    from service.evaluation.in_process import InProcess  # noqa: PLC0415
    from service.evaluation.run import Run  # noqa: PLC0415

    if options.seed < 0:
        raise InvalidOption("'seed' must be 0 or more.")
    arms = arms_of(host.info, options.layers or default_layers(host.info), options.methods)
    purposes = tuple(name for name in PURPOSES if name in (options.purpose or PURPOSES))
    return Run(InProcess(host), pictures, Asked(arms, purposes, options.seed))


def _finish(run: Run) -> None:
    """Do all of it, with a progress bar that says how much time is left."""
    from tqdm import tqdm  # noqa: PLC0415

    form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far, {remaining} left"
    with tqdm(total=1.0, bar_format=form, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for progress in run.steps():
            bar.set_description_str(progress.stage, refresh=False)
            bar.total = progress.total
            bar.update(progress.done - bar.n)


# -- what is written ---------------------------------------------------------------------------------------------------


def _write(options: argparse.Namespace, outcome: Outcome, seconds: float) -> None:
    if options.json is not None:
        text = json.dumps(outcome.as_json(), indent=2, allow_nan=False) + "\n"
        if str(options.json) == "-":
            print(text, end="")
        else:
            options.json.write_text(text, encoding="utf-8")
            print(f"figures: {options.json}")
    if options.report is not None:
        from service.evaluation.report import report_of  # noqa: PLC0415

        options.report.write_text(report_of(outcome, seconds), encoding="utf-8")
        print(f"report: {options.report}", file=sys.stderr if str(options.json) == "-" else sys.stdout)
