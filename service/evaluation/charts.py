"""Charts of a report, as SVG that stands in the page and takes its colours."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["behind_chart"]

_ROW, _LABEL, _PLOT, _RIGHT = 26, 250, 380, 60


def behind_chart(
    names: Sequence[str], behind: Sequence[tuple[float, float, float]], tied: Sequence[bool], title: str
) -> str:
    """Draw what each candidate lacks compared with the best, with its simultaneous bounds.

    Args:
        names: of the candidates, the best first.
        behind: mean, low and high of each.
        tied: whether it cannot be told from the best.
        title: what the chart is of, for those who hear it.
    """
    low = min(0.0, *(each[1] for each in behind))
    high = max(0.01, *(each[2] for each in behind))
    scale = _PLOT / (high - low)
    height = _ROW * len(names) + 34
    zero = _LABEL + (0 - low) * scale
    parts = [
        f'<svg class="chart" viewBox="0 0 {_LABEL + _PLOT + _RIGHT} {height}" role="img" aria-label="{escape(title)}">',
        f'<line class="zero" x1="{zero:.1f}" y1="4" x2="{zero:.1f}" y2="{height - 28}"/>',
        f'<text class="axis" x="{zero:.1f}" y="{height - 10}" text-anchor="middle">as good as the best</text>',
        f'<text class="axis" x="{_LABEL + _PLOT:.1f}" y="{height - 10}" text-anchor="end">worse →</text>',
    ]
    for row, (name, (mean, least, most), ties) in enumerate(zip(names, behind, tied, strict=True)):
        y = row * _ROW + 18
        x, x1, x2 = (_LABEL + (value - low) * scale for value in (mean, least, most))
        kind = "tied" if ties else "apart"
        parts += [
            f'<g class="{kind}"><title>{escape(name)}: {mean:.3f} behind, {least:.3f} to {most:.3f}</title>',
            f'<text x="{_LABEL - 12}" y="{y + 4}" text-anchor="end">{escape(_short(name))}</text>',
            f'<line class="reach" x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}"/>',
            f'<circle cx="{x:.1f}" cy="{y}" r="5"/></g>',
        ]
    return "".join([*parts, "</svg>"])


def _short(name: str) -> str:
    return name if len(name) <= 36 else f"…{name[-35:]}"
