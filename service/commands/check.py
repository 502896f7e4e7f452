"""``camserve check``: whether models can be served, found out without serving them."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import service
from service.commands.flags import add_command, add_settings, settings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from service.check.report import Report, Result, Row

__all__ = ["add"]

_SAMPLE = Path(service.__file__).parent / "demo" / "samples" / "03-star.png"
_WIDTH = 120  # of what is printed elsewhere than on a terminal
_COLOURS: dict[Result, str] = {"ok": "32", "skipped": "2", "warning": "33", "failed": "31"}


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    parser = add_command(commands, "check", _check, "check whether models can be served, without serving them")
    parser.add_argument("--image", type=Path, default=_SAMPLE, metavar="FILE", help="picture to try them with")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the picture's overlays, one per model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--strict", action="store_true", help="end with exit code 1 for warnings, too")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=600.0,
        metavar="SECONDS",
        help="time for each model, after which it has failed; %(default)g if left out",
    )
    add_settings(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be positive")
    return seconds


def _check(options: argparse.Namespace) -> int:
    from service.check.job import Job  # noqa: PLC0415
    from service.check.process import check  # noqa: PLC0415

    settings = settings_of(options)
    try:
        image = {"image": options.image.read_bytes(), "image_name": options.image.name}
    except OSError as error:
        print(f"camserve: the picture {options.image} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    reports = []
    for config in settings.models:
        report = check(Job.of(settings, config, **image, out=options.out), options.timeout)
        reports.append(report)
        if not options.json:
            print("\n".join(_table(report, colours=sys.stdout.isatty())), end="\n\n", flush=True)
    bad = {"failed", "warning"} if options.strict else {"failed"}
    failed = [report.name for report in reports if report.result in bad]
    if options.json:
        print(json.dumps(_as_json(reports, passed=not failed), indent=2))
    else:
        print(_sum(reports, failed))
    return 1 if failed else 0


def _as_json(reports: Sequence[Report], *, passed: bool) -> dict[str, Any]:
    return {"camserve": service.__version__, "passed": passed, "models": [report.as_json() for report in reports]}


def _sum(reports: Sequence[Report], failed: Sequence[str]) -> str:
    checked = f"{len(reports)} model{'' if len(reports) == 1 else 's'} checked"
    return f"{checked}, {len(failed)} failed: {', '.join(failed)}" if failed else f"{checked}, none failed"


def _table(report: Report, *, colours: bool) -> Iterator[str]:
    """Yield the lines of a model's table."""
    from service.check.report import STEPS  # noqa: PLC0415

    titles = max(map(len, STEPS.values()))
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if colours else _WIDTH
    named = report.name if report.name == report.architecture else f"{report.name} ({report.architecture})"
    yield f"{named}: {report.result} in {report.seconds:.1f} s"
    for row in report.rows:
        yield from _lines(row, STEPS[row.step].ljust(titles), max(width, 60), colours=colours)


def _lines(row: Row, title: str, width: int, *, colours: bool) -> Iterator[str]:
    plain = f"  {row.result:<7}  {title}  "
    begin = plain.replace(row.result, f"\033[{_COLOURS[row.result]}m{row.result}\033[0m", 1) if colours else plain
    paragraphs = [row.found] if row.found or not row.notes else []
    paragraphs += [f"→ {note}" for note in row.notes]
    lines = [
        line
        for each in paragraphs
        for line in textwrap.wrap(each, width - len(plain), break_long_words=False, break_on_hyphens=False) or [""]
    ]
    for number, line in enumerate(lines):
        yield f"{begin if number == 0 else ' ' * len(plain)}{line}".rstrip()
