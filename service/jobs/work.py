"""What the process of an evaluation does: it loads the model, and computes what is not known yet.

Runs in the process of an evaluation.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import torch

from service import logs
from service.engine.workers.executor import devices_for, require_device
from service.errors import ServiceError
from service.evaluation.asked import Asked
from service.evaluation.candidates import arms_of
from service.evaluation.in_process import InProcess
from service.evaluation.outcome import outcome_of
from service.evaluation.report import report_of
from service.evaluation.run import Run
from service.imaging.decode import DecodeLimits
from service.jobs.files import FOUND, REPORT, RESULT, replace_text
from service.jobs.journal import Journal
from service.jobs.material import PICTURES, Skipped
from service.jobs.reading import pictures_of
from service.models.loading import load_model
from service.models.sources.source import Downloads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from service.evaluation.outcome import Outcome
    from service.evaluation.pictures import Picture
    from service.jobs.order import Order
    from service.models.host import ModelHost

__all__ = ["work"]

_TELL_EVERY_S = 0.2


def work(order: Order, tell: Callable[[object], None]) -> None:
    """Do an evaluation; tell how far it is, and in the end that it is done, or why it cannot be."""
    logs.configure(order.log_level, order.log_format)
    torch.set_num_threads(order.threads)
    try:
        _work(order, tell)
    except ServiceError as error:
        tell({"failed": error.message})
    except OSError as error:
        tell({"failed": f"What was found cannot be kept on the disk here: {error.strerror}."})


def _work(order: Order, tell: Callable[[object], None]) -> None:
    began = time.monotonic()
    host = _loaded(order)
    pictures, skipped = _pictures(order, host)
    arms = arms_of(host.info, order.layers, order.methods)
    with Journal(order.folder / FOUND) as state:
        run = Run(InProcess(host), pictures, Asked(arms, order.purposes, order.seed), state)
        _compute(run, state, tell)
        _write(order, outcome_of(run), skipped, order.seconds + time.monotonic() - began)
    tell({"done": True})


def _loaded(order: Order) -> ModelHost:
    device = devices_for(order.config.device or order.device)[0]
    require_device(device)
    host = load_model(order.config, device, Downloads(order.cache_dir, order.allow_download, order.weights_mirror))
    if host.info.digest != order.digest:
        raise ServiceError(
            f"The files of model {host.info.name!r} have changed since this was asked for. Reload the model, and ask "
            "again."
        )
    host.compute_in_parts()
    return host


def _pictures(order: Order, host: ModelHost) -> tuple[list[Picture], list[Skipped]]:
    limits = DecodeLimits(order.max_image_bytes, order.max_image_pixels, order.max_image_frames)
    pictures: list[Picture] = []
    skipped: list[Skipped] = []
    for each in pictures_of(order.folder / PICTURES, host.info, limits):
        if isinstance(each, Skipped):
            skipped.append(each)
        else:
            pictures.append(each)
    if not pictures:
        raise ServiceError(f"None of the pictures can be read. {skipped[0].name}: {skipped[0].text}")
    return pictures, skipped


def _compute(run: Run, state: Journal, tell: Callable[[object], None]) -> None:
    """Go through all steps; tell of those that were not known, now and then."""
    told_at, known = 0.0, -1
    for progress in run.steps():
        now = time.monotonic()
        if state.found != known and now - told_at >= _TELL_EVERY_S:
            told = {"done": progress.done, "total": progress.total, "stage": progress.stage, "left": progress.left_s}
            tell({**told, "found": state.found})
            told_at, known = now, state.found


def _write(order: Order, outcome: Outcome, skipped: Sequence[Skipped], seconds: float) -> None:
    result = outcome.as_json()
    left_out = [{"code": "picture_skipped", "text": f"{each.name} is left out: {each.text}"} for each in skipped]
    result["warnings"] = [*result["warnings"], *left_out]
    replace_text(order.folder / REPORT, report_of(outcome, seconds))
    replace_text(order.folder / RESULT, json.dumps(result, allow_nan=False))
