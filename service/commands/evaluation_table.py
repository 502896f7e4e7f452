"""The table of an evaluation, from its figures: the candidates with their means, the baselines, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.evaluation.asked import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from service.evaluation.asked import Metric

__all__ = ["table"]

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
_BASELINES = {"random": "a random map", "centre": "a map of the centre", "edges": "edges"}


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for a result as docs/evaluate.md describes it."""
    rows, baselines = result["rows"], result["baselines"]
    metrics = [name for name in METRICS if any(name in each["metrics"] for each in (*rows, *baselines))]
    names = [f"{row['layer']} / {row['method']}" for row in rows]
    width = max(len(name) for name in [*names, *_BASELINES.values()])
    yield f"{'':{width}}  {'  '.join(f'{_HEADINGS[name]:>8}' for name in metrics)}"
    for name, row in zip(names, rows, strict=True):
        yield f"{name:{width}}  {_means(row, metrics)}{_note(row, result['recommendations'])}".rstrip()
    for each in baselines:
        yield f"{_BASELINES.get(each['name'], each['name']):{width}}  {_means(each, metrics)}".rstrip()
    yield ""
    yield from (each["text"] for each in result["recommendations"])
    if result["warnings"]:
        yield ""
        yield from (f"warning: {each['text']}" for each in result["warnings"])


def _note(row: Mapping[str, Any], recommendations: Sequence[Mapping[str, Any]]) -> str:
    if row["same_as"]:
        return f"  same as {row['same_as']}"
    own = row["layer"], row["method"]
    purposes = [each["purpose"] for each in recommendations if (each["layer"], each["method"]) == own]
    if purposes:
        return f"  * {', '.join(purposes)}"
    return f"  never: {row['excluded']}" if row["excluded"] else ""


def _means(row: Mapping[str, Any], metrics: Sequence[Metric]) -> str:
    found = (row["metrics"].get(name) for name in metrics)
    return "  ".join(f"{'-':>8}" if each is None else f"{each['mean']:8.3f}" for each in found)
