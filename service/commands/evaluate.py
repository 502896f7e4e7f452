"""``camserve evaluate``: which layer and method to explain a model with, measured on a folder of pictures."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from service.commands.asking import add_server
from service.commands.evaluate_pictures import pictures_of_all
from service.commands.evaluated import as_json, require_marks, require_places, table, write
from service.commands.flags import add_command, add_settings, find_own_code, settings_of
from service.errors import InvalidOption, LayerNotExplainable, UnknownLayer
from service.evaluation.asked import Purpose

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.evaluation.asked import Asked
    from service.evaluation.comparison import Comparison
    from service.evaluation.outcome import Outcome
    from service.evaluation.pictures import Picture
    from service.evaluation.run import Run
    from service.model_config import ModelConfig
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
    parser.add_argument(
        "--compare-with",
        metavar="MODEL",
        help="another model, or version: the name of a configured one, or what --model takes",
    )
    parser.add_argument("--seed", type=int, default=0, help="what all chance follows from; %(default)s if left out")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a report, one HTML file")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON; - prints them")
    parser.add_argument("--list", action="store_true", help="list the evaluations of a server")
    parser.add_argument("--cancel", metavar="ID", help="cancel one of them, and forget it")
    add_server(parser)
    add_settings(parser)


def _evaluate(options: argparse.Namespace) -> int:
    from service.evaluation.outcome import outcome_of  # noqa: PLC0415
    from service.evaluation.report import report_of  # noqa: PLC0415

    if options.server:
        from service.commands.evaluate_there import evaluate_there  # noqa: PLC0415

        return evaluate_there(options)
    if options.list or options.cancel:
        raise InvalidOption("Evaluations are listed and cancelled behind a server: give --server, too.")
    if options.folder is None:
        raise InvalidOption("Name the folder with the pictures.")
    if not options.folder.is_dir():
        raise FileNotFoundError(f"there is no folder {options.folder}")
    require_marks(options)
    require_places(options)
    began = time.monotonic()
    settings = settings_of(options)
    chosen = [settings.models[0], *_other(options, settings)]
    hosts = [_loaded(settings, model) for model in chosen]
    asked = [_asked(options, hosts[0].info), *(_asked_of_other(options, host.info) for host in hosts[1:])]
    found = pictures_of_all(options, settings, [host.info for host in hosts])
    runs = [_run(host, pictures, what) for host, pictures, what in zip(hosts, found, asked, strict=True)]
    for number, run in enumerate(runs):
        _finish(run, f"model {number + 1} of 2, " if len(runs) > 1 else "")
    outcomes = [outcome_of(run) for run in runs]
    compared = _compared(outcomes)
    report = partial(report_of, outcomes[0], time.monotonic() - began, compared)
    write(options, as_json(outcomes[0], compared), report, table(outcomes[0], compared))
    return 0


def _other(options: argparse.Namespace, settings: Settings) -> Sequence[ModelConfig]:
    """Return the model to compare with, if there is one: a configured one by its name, or what the flag describes."""
    if options.compare_with is None:
        return ()
    without = settings_of(argparse.Namespace(**{**vars(options), "models": None}))
    named = {model.name: model for model in (*without.models, *settings.models)}
    if options.compare_with in named:
        return (named[options.compare_with],)
    return settings_of(argparse.Namespace(**{**vars(options), "models": [options.compare_with]})).models[:1]


def _compared(outcomes: Sequence[Outcome]) -> Comparison | None:
    from service.evaluation.comparison import Comparison  # noqa: PLC0415

    return Comparison(outcomes[0], outcomes[1]) if len(outcomes) > 1 else None


def _loaded(settings: Settings, model: ModelConfig) -> ModelHost:
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
    host = load_model(model, device, downloads)
    host.compute_in_parts()
    return host


def _asked(options: argparse.Namespace, info: ModelInfo) -> Asked:
    """Return what is compared on a model.

    Raises:
        ServiceError: that cannot be; of the model to compare with, it says so.
    """
    from service.evaluation.asked import PURPOSES, Asked  # noqa: PLC0415
    from service.evaluation.candidates import arms_of, default_layers  # noqa: PLC0415

    if not 0 <= options.seed < 2**63:
        raise InvalidOption(f"'seed' must be 0 to {2**63 - 1}.")
    arms = arms_of(info, options.layers or default_layers(info), options.methods)
    purposes = tuple(name for name in PURPOSES if name in (options.purpose or PURPOSES))
    return Asked(arms, purposes, options.seed)


def _asked_of_other(options: argparse.Namespace, info: ModelInfo) -> Asked:
    """See ``_asked``: of the model to compare with, whose layers may have other names."""
    try:
        return _asked(options, info)
    except (UnknownLayer, LayerNotExplainable) as error:
        raise InvalidOption(
            f"Model {info.name!r}, to compare with: {error} Leave out --layers, and each model is measured at its own."
        ) from error


def _run(host: ModelHost, pictures: Sequence[Picture], asked: Asked) -> Run:
    from service.evaluation.in_process import InProcess  # noqa: PLC0415
    from service.evaluation.run import Run  # noqa: PLC0415

    return Run(InProcess(host), pictures, asked)


def _finish(run: Run, whose: str) -> None:
    """Do all of it, with a progress bar that says how much time is left."""
    from tqdm import tqdm  # noqa: PLC0415

    form = "{desc}: {percentage:3.0f}% |{bar}| {elapsed} so far{postfix}"
    with tqdm(total=1.0, bar_format=form, file=sys.stderr, disable=not sys.stderr.isatty()) as bar:
        for progress in run.steps():
            bar.set_description_str(f"{whose}{progress.stage}", refresh=False)
            left = progress.left_s
            bar.set_postfix_str("" if left is None else f"{bar.format_interval(left)} left", refresh=False)
            bar.total = progress.total
            bar.update(progress.done - bar.n)
