"""The report of an evaluation: one HTML file that needs nothing else."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING

import service
from service.evaluation.asked import METRICS, PURPOSES
from service.evaluation.baselines import BASELINES
from service.evaluation.charts import behind_chart
from service.evaluation.comparison_report import comparison_section, groups_section, means_section
from service.evaluation.gallery import boxes_on, examples_of, overlay, thumbnail
from service.evaluation.recommendation import arm_name
from service.evaluation.style import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.evaluation.asked import Metric, Purpose
    from service.evaluation.comparison import Comparison
    from service.evaluation.gallery import Example
    from service.evaluation.outcome import Outcome

__all__ = ["report_of"]

_PURPOSES: dict[Purpose, str] = {
    "class": "What speaks for the class",
    "localisation": "Where the object is",
    "faithfulness": "What the model uses",
}
_BASELINES = {"random": "a random map", "centre": "the centre of the picture", "edges": "the picture's edges"}


def report_of(outcome: Outcome, seconds: float | None = None, compared: Comparison | None = None) -> str:
    """Return the report.

    Args:
        outcome: of a run.
        seconds: how long it took; left out where nobody knows.
        compared: the outcome beside that of another model.
    """
    info = outcome.run.subject.info
    candidates, pictures = len(outcome.run.asked.arms), len(outcome.run.pictures)
    title = f"Which layer explains {info.name}?"
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{_counted(candidates, "candidate")} on {_counted(pictures, "picture")}, '
        f"measured by camserve {escape(service.__version__)}.</p>",
        *_recommendations(outcome),
        *_warnings(outcome),
        *_ties(outcome),
        *_figures(outcome),
        *_gallery(outcome),
        *means_section(outcome),
        *groups_section(outcome),
        *(() if compared is None else comparison_section(compared)),
        *_how(outcome, seconds),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>\n"
        + "\n".join(body)
        + "\n</main></body></html>\n"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _recommendations(outcome: Outcome) -> Iterator[str]:
    yield '<div class="cards verdicts">'
    for each in outcome.recommendations:
        kind = "card" if each.none_because is None else "card none"
        yield f'<div class="{kind}"><div class="for">{_PURPOSES[each.purpose]}</div><p>{escape(each.text)}</p></div>'
    yield "</div>"


def _warnings(outcome: Outcome) -> Iterator[str]:
    if outcome.findings:
        yield '<h2>Warnings</h2><div class="cards">'
        yield from (f'<div class="card warning"><p>{escape(each.text)}</p></div>' for each in outcome.findings)
        yield "</div>"


def _ties(outcome: Outcome) -> Iterator[str]:
    drawn = [each for each in outcome.recommendations if len(each.compared) > 1]
    if not drawn:
        return
    yield "<h2>What can be told apart</h2>"
    yield (
        '<p class="soft">How far each candidate that passed the gates is behind the best, with 95 % bounds that hold '
        "for all of them together. Those in colour cannot be told from the best.</p>"
    )
    for each in drawn:
        yield f"<h3>{_PURPOSES[each.purpose]}</h3>"
        names = [arm_name(outcome.run.asked.arms, arm) for arm in each.compared]
        tied = [arm in each.ties for arm in each.compared]
        chart = behind_chart(names, each.behind, tied, f"{_PURPOSES[each.purpose]}: {each.text}")
        yield f'<div class="scroll">{chart}</div>'


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(outcome: Outcome) -> Iterator[str]:
    metrics = [name for name in METRICS if name in outcome.scores.metrics]
    heads = "".join(f"<th>{escape(METRICS[name])}</th>" for name in metrics)
    yield "<h2>Figures</h2>"
    yield '<p class="soft">Means, and below each its 95 % interval over the pictures. Higher is better everywhere.</p>'
    yield f'<div class="scroll"><table><thead><tr><th>candidate</th>{heads}<th></th></tr></thead><tbody>'
    chosen = {each.arm for each in outcome.recommendations}
    for arm in range(len(outcome.run.asked.arms)):
        twin = outcome.run.maps.twins[arm]
        kind = ' class="chosen"' if arm in chosen else ""
        cells = "".join(_cell(outcome, name, f"a{twin}") for name in metrics)
        remark, name = escape(_remark(outcome, arm)), escape(arm_name(outcome.run.asked.arms, arm))
        yield f'<tr{kind}><th>{name}</th>{cells}<td class="words">{remark}</td></tr>'
    for name in BASELINES:
        cells = "".join(_cell(outcome, metric, name) for metric in metrics)
        yield f'<tr class="baseline"><th>to beat: {_BASELINES[name]}</th>{cells}<td></td></tr>'
    yield "</tbody></table></div>"


def _cell(outcome: Outcome, metric: Metric, who: str) -> str:
    found = outcome.scores.interval(metric, who)
    if not found.n:
        return "<td>–</td>"
    note = f"{found.low:.2f} to {found.high:.2f}"
    few = f", {found.n} pictures" if found.n < len(outcome.run.pictures) else ""
    return f'<td title="{note}{few}"><b>{found.mean:.3f}</b><small>{note}</small></td>'


def _remark(outcome: Outcome, arm: int) -> str:
    """Say what keeps a candidate from being recommended."""
    twin = outcome.run.maps.twins[arm]
    if twin != arm:
        return f"the same maps as {outcome.run.asked.arms[twin].layer}"
    gates = outcome.gates[arm]
    if gates.excluded is not None:
        return f"never recommended: {gates.excluded}"
    failed: dict[str, list[str]] = defaultdict(list)
    for each in outcome.recommendations:
        if each.purpose in gates.beats and (reason := gates.missing(each.purpose)) is not None:
            failed[reason].append(_PURPOSES[each.purpose].lower())
    return "; ".join(f"{', '.join(purposes)}: {reason}" for reason, purposes in failed.items())


# -- examples ----------------------------------------------------------------------------------------------------------


def _gallery(outcome: Outcome) -> Iterator[str]:
    arm = outcome.overview.arm
    examples = examples_of(outcome.scores, arm)
    marked = " White boxes are what was marked." if outcome.run.marked else ""
    yield "<h2>The same pictures at every layer</h2>"
    yield (
        f'<p class="soft">What the model saw, and the maps of its prediction. Best and worst are those of '
        f"{escape(arm_name(outcome.run.asked.arms, arm))}.{marked}</p>"
    )
    yield '<div class="scroll"><table class="gallery"><tbody>'
    yield f"<tr><th></th>{''.join(_heading(outcome, each) for each in examples)}</tr>"
    yield f"<tr><th>picture</th>{''.join(_picture(outcome, each.picture) for each in examples)}</tr>"
    for candidate in outcome.run.maps.distinct:
        name = escape(arm_name(outcome.run.asked.arms, candidate))
        yield f"<tr><th>{name}</th>{''.join(_example(outcome, candidate, each.picture) for each in examples)}</tr>"
    yield "</tbody></table></div>"


def _heading(outcome: Outcome, example: Example) -> str:
    run = outcome.run
    label = run.subject.info.labels[run.maps.classes[example.picture]]
    picture = run.pictures[example.picture]
    wrong = "" if run.maps.correct(example.picture) else ", which is wrong"
    return (
        f'<td class="head"><b>{escape(example.why)}</b><br>{escape(picture.name)}<br>'
        f'<span class="soft">{escape(label)} {run.maps.confidence(example.picture):.0%}{wrong}</span></td>'
    )


def _picture(outcome: Outcome, picture: int) -> str:
    name = escape(outcome.run.pictures[picture].name)
    image = f'<img alt="{name}" src="{thumbnail(outcome.scores, picture)}">'
    return f"<td><figure>{image}{_boxes(outcome, picture)}</figure></td>"


def _example(outcome: Outcome, arm: int, picture: int) -> str:
    name = f"{outcome.run.pictures[picture].name}: {outcome.run.asked.arms[arm]}"
    empty = ' class="empty"' if outcome.run.maps.is_dead(arm, picture) else ""
    image = f'<img{empty} alt="{escape(name)}" src="{overlay(outcome.scores, arm, picture)}">'
    return f"<td><figure>{image}{_boxes(outcome, picture)}</figure></td>"


def _boxes(outcome: Outcome, picture: int) -> str:
    boxes = boxes_on(outcome.scores, picture)
    if not len(boxes):
        return ""
    drawn = "".join(
        f'<rect x="{left:.4f}" y="{top:.4f}" width="{right - left:.4f}" height="{bottom - top:.4f}" '
        'vector-effect="non-scaling-stroke"/>'
        for left, top, right, bottom in boxes
    )
    return f'<svg viewBox="0 0 1 1" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


# -- how ---------------------------------------------------------------------------------------------------------------


def _how(outcome: Outcome, seconds: float | None) -> Iterator[str]:
    run, info = outcome.run, outcome.run.subject.info
    yield "<h2>How it was computed</h2>"
    yield from (f"<p>{text}</p>" for text in _method(outcome))
    rows = {
        "model": f"{info.name}, {info.architecture}, version {info.version}, digest {info.digest[:16]}",
        "candidates": ", ".join(str(arm) for arm in run.asked.arms),
        "pictures": f"{len(run.pictures)}, {len(run.marked)} of them with marks that could be used",
        "mosaics": f"{len(run.mosaics)}" if "class" in run.asked.purposes else "not asked for",
        "seed": str(run.asked.seed),
        "device": info.device,
        "versions": ", ".join(_versions()),
        "time": "unknown" if seconds is None else f"{seconds:.0f} s",
    }
    yield "<dl>" + "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in rows.items()) + "</dl>"


def _method(outcome: Outcome) -> Iterator[str]:
    ranked = {purpose: outcome.scores.ranked_by(purpose) for purpose in PURPOSES}
    yield (
        "The predicted class of every picture is explained. Candidates are ranked by purpose, by the mean of: "
        + "; ".join(
            f"<b>{_PURPOSES[purpose].lower()}</b>: {', '.join(escape(METRICS[name]) for name in names)}"
            for purpose, names in ranked.items()
            if names
        )
        + "."
    )
    yield (
        "Before that they must pass gates: maps that say something of places; other maps for other classes, and with "
        "a random head; scores that are, beyond doubt, better than those of a random map, the picture's centre, its "
        "edges and the candidate's own maps put elsewhere. Layers on one of several parallel paths and layers of a "
        "single cell are never recommended."
    )
    yield (
        "Uncertainty is that of the pictures: 2,000 resamples, the same for all candidates, with bounds that hold for "
        "all pairs together. Who cannot be told from the best ties with it. Thresholds are chosen on other pictures "
        "than those they are judged by. Taking pixels away is measured in rounds: fewer candidates reach the later "
        "ones, which have more pictures."
    )


def _versions() -> Iterator[str]:
    yield f"camserve {service.__version__}"
    yield f"Python {platform.python_version()}"
    for name in ("torch", "numpy", "pillow"):
        yield f"{name} {importlib.metadata.version(name)}"
