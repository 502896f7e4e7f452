"""How a report looks, in light and in dark."""

from __future__ import annotations

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5a6475; --line: #d9dee7; --paper: #fff; --card: #f5f7fa;
  --accent: #0b66c3; --warn: #8a4b00; --warn-card: #fff4e0; --apart: #8892a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf1; --soft: #a3adbd; --line: #343c49; --paper: #14181f;
  --card: #1d232c; --accent: #6cb2ff; --warn: #ffc069; --warn-card: #2e2413; --apart: #7b8698; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 75ch; }
.soft, figcaption, .axis { color: var(--soft); }
.cards { display: grid; gap: .75rem; }
.verdicts { margin-top: 1.25rem; }
.card { background: var(--card); border-left: 4px solid var(--accent); border-radius: 6px; padding: .75rem 1rem; }
.card p { margin: 0; }
.card.none { border-color: var(--apart); }
.card.warning { background: var(--warn-card); border-color: var(--warn); }
.card .for { font-size: .8rem; color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .85rem; width: 100%; }
th, td { padding: .4rem .6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child { text-align: left; min-width: 8rem; overflow-wrap: anywhere; }
thead th { font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 400; }
td small { display: block; color: var(--soft); white-space: nowrap; }
tr.baseline { color: var(--soft); }
tr.chosen th, tr.chosen td > b { font-weight: 700; color: var(--accent); }
td.words { text-align: left; min-width: 15rem; font-size: .8rem; }
.chart { width: 100%; min-width: 480px; max-width: 690px; height: auto; font: 13px system-ui, sans-serif; }
.chart text { fill: var(--ink); }
.chart .axis { fill: var(--soft); font-size: 12px; }
.chart .zero { stroke: var(--line); stroke-width: 2; }
.chart .reach { stroke-width: 3; stroke-linecap: round; }
.chart .tied .reach { stroke: var(--accent); } .chart .tied circle { fill: var(--accent); }
.chart .apart .reach { stroke: var(--apart); } .chart .apart circle { fill: var(--paper); stroke: var(--apart);
  stroke-width: 2; }
.gallery th { text-align: left; font-weight: 400; max-width: 9rem; overflow-wrap: anywhere; }
.gallery td, .gallery th { padding: .25rem; border: 0; text-align: left; }
.gallery td { width: 15%; }
.gallery.pairs td { width: 26%; }
.gallery figure { margin: 0; position: relative; }
.gallery img { display: block; width: 100%; min-width: 96px; border-radius: 4px; image-rendering: auto; }
.gallery svg { position: absolute; inset: 0; width: 100%; height: 100%; fill: none; stroke: #fff; stroke-width: 2;
  pointer-events: none; }
.gallery .empty { outline: 1px dashed var(--apart); }
.gallery td.head { font-size: .8rem; vertical-align: bottom; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); gap: .75rem; }
.tiles figure { margin: 0; } .tiles img { display: block; width: 100%; border-radius: 4px; }
figcaption { font-size: .8rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media print { .card { break-inside: avoid; } }
"""
