"""What ``camserve evaluate`` prints and writes."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from service.commands.evaluation_table import table as table_of
from service.commands.flags import named
from service.errors import InvalidOption, ServiceError, writable
from service.evaluation.asked import METRICS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from service.evaluation.comparison import Comparison
    from service.evaluation.outcome import Outcome

__all__ = ["as_json", "require_marks", "require_places", "table", "write"]

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
        yield f"  {shift.moved:4.0%}  {named(name)}: {before} -> {after}"
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
        InvalidOption: that is a folder itself, nothing can be written there, or both are one file.
    """
    if str(options.report) == "-":
        raise InvalidOption("--report - : a report is not printed. Name the file to write, such as report.html.")
    files = {flag: path for flag in ("report", "json") if (path := getattr(options, flag)) and str(path) != "-"}
    for flag, path in files.items():
        _require_place(flag, path)
    places = [place for path in files.values() if _is_whole(place := path.resolve())]
    if len(set(places)) < len(places):
        raise InvalidOption(f"--report and --json are both {options.json}: name two files.")


def require_marks(options: argparse.Namespace) -> None:
    """Make sure that where the object is, if that is asked for by name, is known of some picture.

    Raises:
        InvalidOption: nothing is marked.
    """
    if "localisation" in (options.purpose or ()) and not (options.boxes or options.masks):
        raise InvalidOption("--purpose localisation compares maps with what is marked: give --boxes or --masks, too.")


def _require_place(flag: str, path: Path) -> None:
    if path.is_dir():
        raise InvalidOption(f"--{flag} {path} is a folder: name the file to write, such as {path / f'out.{flag}'}.")
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidOption(f"--{flag} {path}: its folder cannot be made: {error.strerror}.") from error
    needed = [place] if place.exists() else []
    needed += [place.parent] if _is_whole(place) else []
    if not all(os.access(each, os.W_OK) for each in needed):
        raise InvalidOption(
            f"--{flag} {path} cannot be written: you lack the permission, for it or for its folder. Name another place."
        )


def _is_whole(path: Path) -> bool:
    """Whether a path is, or will be, a file; others, such as pipes, are written as they are."""
    return path.is_file() or not path.exists()


def as_json(outcome: Outcome, compared: Comparison | None) -> dict[str, Any]:
    """Return the figures, those of a comparison among them."""
    told = outcome.as_json()
    return told if compared is None else {**told, "comparison": compared.as_json()}


def write(
    options: argparse.Namespace, figures: Mapping[str, Any], report: Callable[[], str], lines: Iterable[str]
) -> None:
    """Write what was asked for, then print; what cannot be written does not keep the rest from it.

    Args:
        options: ``json`` and ``report`` say where.
        figures: for the one.
        report: makes the other.
        lines: printed, unless the figures are.

    Raises:
        OSError: something could not be written.
        ServiceError: the report could not be had.
    """
    text = json.dumps(figures, indent=2, allow_nan=False)
    printed = str(options.json) == "-"
    files: list[tuple[str, Path | None, Callable[[], str]]] = [
        ("figures", None if printed else options.json, lambda: f"{text}\n"),
        ("report", options.report, report),
    ]
    failed: OSError | ServiceError | None = None
    notes = []
    # Files first: whoever reads what is printed may have seen enough before the end.
    for what, path, content in files:
        try:
            if path is not None:
                _write_whole(path, content())
                notes.append(f"{what}: {named(path)}")
        except OSError as error:
            failed = OSError(f"the {what} could not be written to {path}: {error.strerror}")
        except ServiceError as error:
            failed = error
    print(text if printed else writable("\n".join(lines)))
    for note in notes:
        print(note, file=sys.stderr if printed else sys.stdout)
    if failed is not None:
        raise failed


def _write_whole(path: Path, text: str) -> None:
    """Write a file all at once, in the place of what is there.

    Raises:
        OSError: it could not be written; what was there is left.
    """
    place = path.resolve()
    if not _is_whole(place):
        path.write_text(text, encoding="utf-8")
        return
    target = place.with_name(f".camserve.{os.getpid()}")
    try:
        target.write_text(text, encoding="utf-8")
        target.replace(place)
    finally:
        target.unlink(missing_ok=True)
