"""Write the tables of the docs that follow from the code, or from what benchmarks found: ``docs/make_tables.py``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. With ``--check`` nothing is written, and the exit
code says whether something would have been.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from prometheus_client import Counter, Gauge, Histogram
from pydantic_core import PydanticUndefined

from service import errors
from service.cam.methods import METHODS
from service.imaging.colormaps import COLORMAPS
from service.metrics import Metrics
from service.models.defaults import FAMILIES
from service.options import OPTIONS
from service.problems import STATUS
from service.settings import KeyConfig, ModelConfig, Settings
from service.wire import ExplainOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic.fields import FieldInfo

HERE = Path(__file__).parent
_PLACE = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def settings() -> str:
    """One row per setting: flag, environment variable, default, bounds, meaning."""
    return _table(
        ("setting", "flag", "environment", "default", "range", "meaning"),
        (
            (
                f"`{name}`",
                "`--model`" if name == "models" else f"`--{name.replace('_', '-')}`",
                f"`CAMSERVE_{name.upper()}`",
                _default(name, field),
                _bounds(field),
                field.description or "",
            )
            for name, field in Settings.model_fields.items()
        ),
    )


def model_options() -> str:
    """One row per option of a model."""
    return _table(
        ("option", "default", "range", "meaning"),
        (
            (f"`{name}`", _default(name, field), _bounds(field), field.description or "")
            for name, field in ModelConfig.model_fields.items()
        ),
    )


def key_options() -> str:
    """One row per option of an API key."""
    return _table(
        ("option", "default", "range", "meaning"),
        (
            (f"`{name}`", _default(name, field), _bounds(field), field.description or "")
            for name, field in KeyConfig.model_fields.items()
        ),
    )


def request_options() -> str:
    """One row per option of a request, those that ``predict`` has last."""
    return _table(
        ("option", "default", "range", "meaning"),
        (
            (f"`{name}`", _default(name, field), _bounds(field), field.description or "")
            for name, field in sorted(
                ExplainOptions.model_fields.items(), key=lambda item: OPTIONS[item[0]].about.predict
            )
        ),
    )


def metrics() -> str:
    """One row per metric, as a scrape names it."""
    kinds = {Counter: ("counter", "_total"), Gauge: ("gauge", ""), Histogram: ("histogram", "")}
    return _table(
        ("metric", "type", "labels", "meaning"),
        (
            (
                f"`{metric._name}{kinds[type(metric)][1]}`",
                kinds[type(metric)][0],
                ", ".join(f"`{label}`" for label in metric._labelnames) or "–",
                metric._documentation,
            )
            for metric in vars(Metrics()).values()
            if isinstance(metric, (Counter, Gauge, Histogram))
        ),
    )


def error_codes() -> str:
    """One row per error code, with its section's address."""
    titles = {kind.code: kind.title for kind in _kinds(errors.ServiceError)}
    return _table(
        ("status", "code", "title"),
        ((str(status), f"[`{code}`](#{code})", titles[code]) for code, status in STATUS.items()),
    )


def _cost(forwards: float | None) -> str:
    return "grows with the channels" if forwards is None else f"{forwards:g}"


def methods() -> str:
    """One row per CAM method."""
    return _table(
        ("method", "name", "what it shows", "cost in forward passes", "paper"),
        ((f"`{name}`", row.title, row.summary, _cost(row.forwards), f"<{row.paper}>") for name, row in METHODS.items()),
    )


def colormaps() -> str:
    """One row per colormap."""
    return _table(("colormap", "kind"), ((f"`{name}`", row.kind) for name, row in COLORMAPS.items()))


def families() -> str:
    """One row per family of architectures."""
    return _table(
        ("architectures that begin with", "default layer: the last that matches"),
        ((f"`{name}`", f"`{pattern}`") for name, pattern in FAMILIES.items()),
    )


def performance() -> str:
    """One row per figure that ``docs/performance.json`` has, under a sentence that says of which machine."""
    found = json.loads((HERE / "performance.json").read_text(encoding="utf-8"))
    rows = (
        (f"`{name}`" if index == 0 else "", line["text"], _target(line))
        for name, benchmark in found["benchmarks"].items()
        for index, line in enumerate(benchmark["lines"])
    )
    return f"{_where(found)}\n\n{_table(('benchmark', 'result', 'target'), rows)}"


def _target(line: dict[str, Any]) -> str:
    return "" if line["target"] is None else f"{line['target']}: {'met' if line['met'] else '**missed**'}"


def _where(found: dict[str, Any]) -> str:
    """Say on what machine, when, and with which versions."""
    machine, dates = found["machine"], sorted(each["date"] for each in found["benchmarks"].values())
    when = f"on {dates[0]}" if dates[0] == dates[-1] else f"from {dates[0]} to {dates[-1]}"
    gpus = f" and {', '.join(machine['gpus'])}" if machine["gpus"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    note = f" {found['note']}" if "note" in found else ""
    return f"Measured {when} on {machine['cores']} cores of {machine['processor']}{flags}{gpus}, with {versions}.{note}"


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "model-options": model_options,
    "key-options": key_options,
    "request-options": request_options,
    "metrics": metrics,
    "error-codes": error_codes,
    "methods": methods,
    "colormaps": colormaps,
    "families": families,
    "performance": performance,
}


def fill(text: str) -> str:
    """Return a document with its tables as the code has them."""
    return _PLACE.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}{found[3]}", text)


def stale(*, repair: bool) -> list[Path]:
    """Return the documents whose tables are not what the code says; write them where ``repair`` says so."""
    found = []
    for file in sorted(HERE.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        filled = fill(text)
        if filled != text:
            found.append(file)
            if repair:
                file.write_text(filled, encoding="utf-8")
    return found


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _kinds(root: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [root, *(found for child in root.__subclasses__() for found in _kinds(child))]


def _default(name: str, field: FieldInfo) -> str:
    if name == "cache_dir":
        return "`~/.cache/camserve`"
    if name == "models":
        return " ".join(f"`{model.name}`" for model in field.default)
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if value is None or value == "" or value == ():
        return "–"
    if isinstance(value, list | frozenset):
        return " ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _bounds(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    limits = {
        kind: getattr(item, kind) for item in field.metadata for kind in ("ge", "gt", "le") if hasattr(item, kind)
    }
    low = f"≥ {limits['ge']}" if "ge" in limits else f"> {limits['gt']}" if "gt" in limits else ""
    if "ge" in limits and "le" in limits:
        return f"{limits['ge']}–{limits['le']}"
    return ", ".join(part for part in (low, f"≤ {limits['le']}" if "le" in limits else "") if part)


def _choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values of a Literal, wherever in the annotation it stands."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


if __name__ == "__main__":
    check = "--check" in sys.argv[1:]
    names = [str(file.relative_to(HERE.parent)) for file in stale(repair=not check)]
    sys.stdout.write("".join(f"{'stale' if check else 'written'}: {name}\n" for name in names))
    sys.exit(1 if check and names else 0)
