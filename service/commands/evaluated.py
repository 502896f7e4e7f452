"""What ``camserve evaluate`` prints and writes."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from service.commands.evaluation_table import table as table_of
from service.errors import InvalidOption
from service.evaluation.asked import METRICS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from service.evaluation.comparison import Comparison
    from service.evaluation.outcome import Outcome

__all__ = ["as_json", "require_places", "table", "write"]

_MOVED = 10  # pictures whose map moved, in the table


def table(outcome: Outcome, compared: Comparison | None) -> Iterator[str]:
    """Yield the lines of the table: the candidates with their means, the baselines, and what follows."""
    yield from table_of(outcome.as_json())
    if compared is not None:
        yield from _beside(compared)


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
    yield from table_of(found.second.as_json())


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


def as_json(outcome: Outcome, compared: Comparison | None) -> dict[str, Any]:
    """Return the figures, those of a comparison among them."""
    told = outcome.as_json()
    return told if compared is None else {**told, "comparison": compared.as_json()}


def write(options: argparse.Namespace, figures: Mapping[str, Any], report: Callable[[], str]) -> None:
    """Write what was asked for; what cannot be written does not keep the rest from it.

    Args:
        options: ``json`` and ``report`` say where.
        figures: for the one.
        report: makes the other.

    Raises:
        OSError: something could not be written.
    """
    failed: OSError | None = None
    printed = str(options.json) == "-"
    if options.json is not None:
        text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
        if printed:
            print(text, end="")
        else:
            failed = _written(options.json, text, "figures", printed)
    if options.report is not None:
        failed = _written(options.report, report(), "report", printed) or failed
    if failed is not None:
        raise failed


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
