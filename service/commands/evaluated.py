"""What ``camserve evaluate`` prints and writes."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from service.errors import InvalidOption
from service.evaluation.asked import METRICS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from service.evaluation.asked import Metric
    from service.evaluation.comparison import Comparison
    from service.evaluation.outcome import Outcome

__all__ = ["require_places", "table", "write"]

_HEADINGS: dict[Metric, str] = {
    "pointing_game": "pointing",
    "mass_inside": "mass",
    "iou": "IoU",
    "max_box_acc": "boxes",
    "pxap": "PxAP",
    "road": "ROAD",
    "insertion_deletion": "ins-del",
    "grid_pointing_game": "mosaics",
}
_MOVED = 10  # pictures whose map moved, in the table


def table(outcome: Outcome, compared: Comparison | None) -> Iterator[str]:
    """Yield the lines of the table: the candidates with their means, the baselines, and what follows."""
    yield from _evaluated(outcome)
    if compared is not None:
        yield from _beside(compared)


def _evaluated(outcome: Outcome) -> Iterator[str]:
    run, metrics = outcome.run, [name for name in METRICS if name in outcome.scores.metrics]
    names = [str(arm) for arm in run.asked.arms]
    width = max(len(name) for name in [*names, "a map of the centre"])
    yield f"{'':{width}}  {'  '.join(f'{_HEADINGS[name]:>8}' for name in metrics)}"
    chosen = {each.arm: each for each in outcome.recommendations if each.arm is not None}
    for arm, name in enumerate(names):
        twin = run.maps.twins[arm]
        note = f"  same as {run.asked.arms[twin].layer}" if twin != arm else _note(outcome, arm, arm in chosen)
        yield f"{name:{width}}  {_means(outcome, metrics, f'a{twin}')}{note}".rstrip()
    for baseline, words in {"random": "a random map", "centre": "a map of the centre", "edges": "edges"}.items():
        yield f"{words:{width}}  {_means(outcome, metrics, baseline)}"
    yield ""
    yield from (each.text for each in outcome.recommendations)
    if outcome.findings:
        yield ""
        yield from (f"warning: {each.text}" for each in outcome.findings)


def _note(outcome: Outcome, arm: int, recommended: bool) -> str:
    if recommended:
        return f"  * {', '.join(each.purpose for each in outcome.recommendations if each.arm == arm)}"
    excluded = outcome.gates[arm].excluded
    return f"  never: {excluded}" if excluded else ""


def _means(outcome: Outcome, metrics: Sequence[Metric], who: str) -> str:
    found = (outcome.scores.interval(name, who) for name in metrics)
    return "  ".join(f"{each.mean:8.3f}" if each.n else f"{'-':>8}" for each in found)


def _beside(found: Comparison) -> Iterator[str]:
    """Yield what became of answers, maps and scores with the second model, and what is said of it by itself."""
    one, two = found.names
    same = sum(each.same_answer for each in found.shifts)
    median = float(np.median([each.moved for each in found.shifts]))
    yield ""
    yield f"{two} compared with {one}: the same answer on {same} of {len(found.shifts)} pictures; half of the maps"
    yield f"moved by more than {median:.0%}. Those that moved furthest, where the answer stayed first:"
    for shift in found.shifts[:_MOVED]:
        name = found.first.run.pictures[shift.picture].name
        before, after = (f"{each.label} {each.probability:.0%}" for each in shift.answers)
        yield f"  {shift.moved:4.0%}  {name}: {before} -> {after}"
    width = max((len(METRICS[name]) for name in found.differences), default=0)
    for name, each in found.differences.items():
        told = f"{each.first.mean:8.3f} {each.second.mean:8.3f} {each.more.mean:+8.3f}"
        yield f"  {METRICS[name]:{width}} {told} ({each.more.low:+.3f} to {each.more.high:+.3f}, n = {each.more.n})"
    yield ""
    yield f"{two} by itself:"
    yield from _evaluated(found.second)


# -- files -------------------------------------------------------------------------------------------------------------


def require_places(options: argparse.Namespace) -> None:
    """Make the folders that something will be written into, before minutes are spent on it.

    Raises:
        InvalidOption: that is a folder itself, or nothing can be written there.
    """
    for flag in ("report", "json"):
        path: Path | None = getattr(options, flag)
        if path is None or str(path) == "-":
            continue
        if path.is_dir():
            raise InvalidOption(f"--{flag} {path} is a folder: name the file to write, such as {path / f'out.{flag}'}.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidOption(f"--{flag} {path}: its folder cannot be made: {error.strerror}.") from error
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InvalidOption(f"--{flag} {path} cannot be written: you lack the permission.")


def write(options: argparse.Namespace, outcome: Outcome, compared: Comparison | None, seconds: float) -> None:
    """Write what was asked for; what cannot be written does not keep the rest from it.

    Raises:
        OSError: something could not be written.
    """
    from service.evaluation.report import report_of  # noqa: PLC0415

    failed: OSError | None = None
    printed = str(options.json) == "-"
    if options.json is not None:
        text = json.dumps(_as_json(outcome, compared), indent=2, allow_nan=False) + "\n"
        if printed:
            print(text, end="")
        else:
            failed = _written(options.json, text, "figures", printed)
    if options.report is not None:
        failed = _written(options.report, report_of(outcome, seconds, compared), "report", printed) or failed
    if failed is not None:
        raise failed


def _as_json(outcome: Outcome, compared: Comparison | None) -> dict[str, Any]:
    told = outcome.as_json()
    return told if compared is None else {**told, "comparison": compared.as_json()}


def _written(path: Path, text: str, what: str, aside: bool) -> OSError | None:
    """Write a file all at once, in the place of what is there; return why it could not be."""
    whole = path.is_file() or not path.exists()  # others, such as pipes, are written as they are
    target = path.with_name(f".{path.name[:200]}.{os.getpid()}") if whole else path
    try:
        target.write_text(text, encoding="utf-8")
        if whole:
            target.replace(path)
    except OSError as error:
        if whole:
            target.unlink(missing_ok=True)
        return OSError(f"the {what} could not be written to {path}: {error.strerror}")
    print(f"{what}: {path}", file=sys.stderr if aside else sys.stdout)
    return None
