"""What a report shows of all pictures together, and of two models side by side."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

from service.evaluation.asked import METRICS
from service.evaluation.comparison import levels_at
from service.evaluation.findings import words_for
from service.evaluation.gallery import jpeg, mean_overlay, overlay, shown_picture
from service.evaluation.recommendation import arm_name
from service.imaging.difference import panels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.evaluation.comparison import Comparison, Shift
    from service.evaluation.groups import Group
    from service.evaluation.outcome import Outcome
    from service.evaluation.overview import ClassMean

__all__ = ["comparison_section", "groups_section", "means_section"]

_CLASSES, _GROUPS, _MEMBERS, _MOVED = 24, 12, 5, 12  # drawn at most
_NAMED = 4  # classes of a group
_COLOURS = "turbo"


# -- where maps lie on average ----------------------------------------------------------------------------------------


def means_section(outcome: Outcome) -> Iterator[str]:
    """Yield the mean map of every class."""
    means = outcome.overview.means
    yield "<h2>Where the maps of a class lie</h2>"
    yield (
        f'<p class="soft">Mean maps of {escape(_arm(outcome))} at the model\'s input, on the mean of the pictures, '
        f"by predicted class{_of(len(means), _CLASSES, 'classes')}.</p>"
    )
    drawn = "".join(f"<figure>{_mean(outcome, each)}</figure>" for each in means[:_CLASSES])
    yield f'<div class="tiles">{drawn}</div>'


def _mean(outcome: Outcome, mean: ClassMean) -> str:
    label, count = outcome.run.subject.info.labels[mean.label], len(mean.pictures)
    dead = f", {mean.dead} of them without a place" if mean.dead else ""
    address = mean_overlay(outcome.scores, outcome.overview.arm, mean.pictures, mean.values)
    return (
        f'<img alt="mean map of {escape(label)}" src="{address}">'
        f"<figcaption>{escape(label)}: {_pictures(count)}{dead}</figcaption>"
    )


# -- pictures whose maps lie alike ------------------------------------------------------------------------------------


def groups_section(outcome: Outcome) -> Iterator[str]:
    """Yield the groups, each with its mean map and some of its pictures."""
    groups = outcome.overview.groups
    if not groups:
        return
    yield "<h2>Pictures whose maps lie alike</h2>"
    yield (
        f'<p class="soft">Maps of {escape(_arm(outcome))}, grouped by where they lie (spectral clustering; the number '
        "of groups is where the eigenvalues leap). A group of different classes may just have its objects at one "
        "place: what it says is that the maps are alike, and not why. It is warned of where it is more alike than any "
        "as large among the same maps put elsewhere by chance, and lies outside the annotated objects, or, where "
        f"nothing is annotated, beside the middle{_of(len(groups), _GROUPS, 'groups')}.</p>"
    )
    yield '<div class="scroll"><table class="gallery"><tbody>'
    for group in groups[:_GROUPS]:
        yield f"<tr>{_group(outcome, group)}</tr>"
    yield "</tbody></table></div>"


def _group(outcome: Outcome, group: Group) -> str:
    labels = [f"{escape(label)} ({count})" for label, count in outcome.labels(group).items()]
    if len(labels) > _NAMED + 1:
        labels[_NAMED:] = [f"and {len(labels) - _NAMED} classes more"]
    warned = any(each is group for each in outcome.overview.shared)
    chance = "more than by chance" if group.beyond_chance else "as by chance"
    address = mean_overlay(outcome.scores, outcome.overview.arm, group.members, group.mean, own_grid=False)
    members = "".join(
        f'<td><figure><img alt="{escape(outcome.run.pictures[picture].name)}" '
        f'src="{overlay(outcome.scores, outcome.overview.arm, picture)}"></figure></td>'
        for picture in group.members[:_MEMBERS]
    )
    return (
        f"<th>{'<b>Shared place.</b> ' if warned else ''}{_pictures(len(group.members))}, {words_for(group.place)}; "
        f"{group.alike:.0%} of their mass in common, {chance}. {', '.join(labels)}</th>"
        f'<td><figure><img alt="mean map of the group" src="{address}"></figure></td>{members}'
    )


# -- two models -------------------------------------------------------------------------------------------------------


def comparison_section(found: Comparison) -> Iterator[str]:
    """Yield what became of answers, maps and scores."""
    one, two = (escape(name) for name in found.names)
    same = sum(each.same_answer for each in found.shifts)
    median = float(np.median([each.moved for each in found.shifts]))
    yield f"<h2>{one} and {two}</h2>"
    yield (
        f"<p>The answer is the same on {same} of {_pictures(len(found.shifts))}. Half of the maps moved by more than "
        f"{median:.0%}: that is the share of a map's mass that lies elsewhere on the picture.</p>"
    )
    yield from _differences(found)
    yield from _shifts(found)
    yield from _means_of_both(found)
    yield from _second(found)


def _differences(found: Comparison) -> Iterator[str]:
    if not found.differences:
        return
    one, two = (f"{name}: {_compared_arm(outcome, arm)}" for name, outcome, arm in _sides(found))
    yield "<h3>Scores</h3>"
    yield (
        '<p class="soft">Means over the pictures that both were measured on, and the difference picture by picture '
        "with its 95 % interval. In bold: the interval leaves out zero. Each is by itself: of twenty such, one leaves "
        "it out by chance.</p>"
    )
    yield (
        f'<div class="scroll"><table><thead><tr><th></th><th>{escape(one)}</th><th>{escape(two)}</th>'
        "<th>difference</th><th>pictures</th></tr></thead><tbody>"
    )
    for name, each in found.differences.items():
        more = f"{each.more.mean:+.3f}"
        told = f"<b>{more}</b>" if each.beyond_doubt else more
        yield (
            f"<tr><th>{escape(METRICS[name])}</th><td>{each.first.mean:.3f}</td><td>{each.second.mean:.3f}</td>"
            f"<td>{told}<small>{each.more.low:+.3f} to {each.more.high:+.3f}</small></td><td>{each.more.n}</td></tr>"
        )
    yield "</tbody></table></div>"


def _shifts(found: Comparison) -> Iterator[str]:
    for same, title in ((True, "The answer stayed, the map moved"), (False, "Another answer")):
        shifts = [each for each in found.shifts if each.same_answer is same]
        if not shifts:
            continue
        yield f"<h3>{title}</h3>"
        yield f'<p class="soft">{_pictures(len(shifts))}, those that moved furthest first{_of_shifts(len(shifts))}.</p>'
        yield '<div class="scroll"><table class="gallery pairs"><tbody>'
        one, two = (escape(name) for name in found.names)
        yield f"<tr><th></th><td>{one}</td><td>{two}</td><td>more in {two} (red), less (blue)</td></tr>"
        for each in shifts[:_MOVED]:
            yield f"<tr>{_shift(found, each)}</tr>"
        yield "</tbody></table></div>"


def _shift(found: Comparison, shift: Shift) -> str:
    shown = found.first.run.pictures[shift.picture]
    geometry = shown.geometry
    inputs = np.arange(geometry.model_width, dtype=np.float64), np.arange(geometry.model_height, dtype=np.float64)
    xs, ys = geometry.to_image(inputs[0] + 0.5, inputs[1] + 0.5)
    one, two = (levels_at(outcome.run, arm, shift.picture, xs, ys) for _, outcome, arm in _sides(found))
    drawn = panels(shown_picture(shown.pixels), one, two, _COLOURS)
    alts = (*found.names, "difference")
    images = "".join(
        f'<td><figure><img alt="{escape(f"{shown.name}: {alt}")}" src="{jpeg(panel)}"></figure></td>'
        for panel, alt in zip(drawn, alts, strict=True)
    )
    before, after = (f"{escape(each.label)} {each.probability:.0%}" for each in shift.answers)
    return f"<th>{escape(shown.name)}: {shift.moved:.0%} moved<br>{before} → {after}</th>{images}"


def _means_of_both(found: Comparison) -> Iterator[str]:
    sides = []
    for name, outcome, _ in _sides(found):
        labels = outcome.run.subject.info.labels
        sides.append((name, outcome, {labels[each.label]: each for each in outcome.overview.means}))
    names = dict.fromkeys([*sides[0][2], *sides[1][2]])
    yield "<h3>Where the maps of a class lie, in both</h3>"
    of = _of(len(names), _CLASSES, "classes")
    yield f'<p class="soft">Mean maps at the models\' inputs, by predicted class{of}.</p>'
    yield '<div class="scroll"><table class="gallery pairs"><tbody>'
    yield f"<tr><th></th>{''.join(f'<td>{escape(name)}: {escape(_arm(each))}</td>' for name, each, _ in sides)}</tr>"
    for label in list(names)[:_CLASSES]:
        cells = (
            f"<td><figure>{_mean(outcome, means[label]) if label in means else '–'}</figure></td>"
            for _, outcome, means in sides
        )
        yield f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _second(found: Comparison) -> Iterator[str]:
    """Yield what the evaluation says of the second model by itself."""
    yield f"<h3>{escape(found.names[1])} by itself</h3>"
    yield '<div class="cards">'
    for each in found.second.recommendations:
        yield f'<div class="card{"" if each.none_because is None else " none"}"><p>{escape(each.text)}</p></div>'
    yield from (f'<div class="card warning"><p>{escape(each.text)}</p></div>' for each in found.second.findings)
    yield "</div>"
    yield from groups_section(found.second)


def _sides(found: Comparison) -> Iterator[tuple[str, Outcome, int]]:
    yield from zip(found.names, (found.first, found.second), found.arms, strict=True)


def _compared_arm(outcome: Outcome, arm: int) -> str:
    return arm_name(outcome.run.asked.arms, arm)


def _arm(outcome: Outcome) -> str:
    return arm_name(outcome.run.asked.arms, outcome.overview.arm)


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


def _of(count: int, most: int, what: str) -> str:
    return f". Of {count} {what} the {most} with most pictures are shown" if count > most else ""


def _of_shifts(count: int) -> str:
    return f"; {_MOVED} are shown" if count > _MOVED else ""
