// The figures of an evaluation: a row for each candidate, an interval for each metric.

import { make } from "../shared/elements.js";
import { twoDecimals } from "../shared/numbers.js";
import { methodNamed } from "./catalogue.js";

export const PURPOSES = {
  class: "What speaks for the class",
  localisation: "Where the object is",
  faithfulness: "What the model uses",
};

const METRICS = {
  road: "ROAD",
  insertion_deletion: "Insertion − deletion",
  grid_pointing_game: "Grid pointing game",
  pointing_game: "Pointing game",
  mass_inside: "Mass inside",
  iou: "IoU",
  max_box_acc: "MaxBoxAccV2",
  pxap: "PxAP",
};

const BASELINES = { random: "a random map", centre: "the centre of the picture", edges: "the picture’s edges" };
const BEATEN = { ...BASELINES, shifted: "its own maps put elsewhere" };

/** Whether candidates differ in more than their layers. */
export const several = ({ rows }) => new Set(rows.map(({ method }) => method)).size > 1;

/** The table and what to know of it; `take(row)` is called for the layer that somebody wants. */
export function figures(result, take) {
  const { rows, baselines } = result;
  const names = Object.keys(METRICS).filter((name) => rows.some(({ metrics }) => metrics[name]?.n));
  const scales = new Map(names.map((name) => [name, scale([...rows, ...baselines].map(({ metrics }) => metrics[name]))]));
  const head = (text) => make("th", { scope: "col" }, text);
  const heads = [head("Candidate"), head("Use it"), ...names.map((name) => head(METRICS[name])), head("Notes")];
  const cells = ({ metrics }) => names.map((name) => cell(metrics[name], scales.get(name)));
  const body = make("tbody", {},
    ...rows.map((row) => rowOf(row, result, cells(row), take)),
    ...baselines.map((each) => make("tr", { className: "baseline" },
      make("th", { scope: "row" }, `to beat: ${BASELINES[each.name] ?? each.name}`), make("td"), ...cells(each), make("td"))));
  const table = make("table", { ariaLabel: "Figures" }, make("thead", {}, make("tr", {}, ...heads)), body);
  const attributes = { role: "region", "aria-label": "Figures of all candidates", tabindex: "0" };
  return [
    make("h3", {}, "Figures"),
    make("p", { className: "note" }, "Means with their 95 % intervals over the pictures; higher is better. The bars of a column have one scale."),
    make("div", { className: "scroll figures", attributes }, table),
  ];
}

function rowOf(row, result, cells, take) {
  const { layer, method, excluded } = row;
  const title = several(result) ? `${layer}, ${methodNamed(method)?.title ?? method}` : layer;
  const chosenFor = result.recommendations.filter((each) => each.layer === layer && each.method === method);
  const tag = chosenFor.length > 0 && make("span", { className: "tag" }, ` ★ ${chosenFor.map(({ purpose }) => purpose).join(", ")}`);
  const button = !excluded && make("button", { type: "button", onclick: () => take(row) }, "Use", make("span", { className: "unseen" }, ` ${title}`));
  return make("tr", { className: chosenFor.length ? "chosen" : "" },
    make("th", { scope: "row" }, title, tag), make("td", {}, button), ...cells, make("td", { className: "said" }, notes(row)));
}

/** What keeps a candidate from being recommended. */
function notes({ excluded, same_as: twin, gates }) {
  if (twin) return `the same maps as ${twin}`;
  if (excluded) return `never recommended: ${excluded}`;
  const lost = Object.keys(BEATEN).filter((name) => gates[`beats_${name}`] === false);
  return [
    gates.head_sensitive === false && "its maps hardly change with a head of random weights",
    gates.class_sensitive === false && "the same regions for every class",
    lost.length > 0 && `not always better beyond doubt than ${lost.map((name) => BEATEN[name]).join(", ")}`,
  ].filter(Boolean).join("; ");
}

function scale(intervals) {
  const known = intervals.filter((each) => typeof each?.mean === "number");
  const least = Math.min(0, ...known.map(({ mean, low }) => low ?? mean));
  const most = Math.max(...known.map(({ mean, high }) => high ?? mean));
  return (value) => `${(100 * (value - least)) / (most - least || 1)}%`;
}

function cell(interval, place) {
  if (typeof interval?.mean !== "number") return make("td", {}, "–");
  const { mean, low, high } = interval;
  const bar = make("span", { className: "interval", ariaHidden: "true" });
  for (const [name, value] of Object.entries({ mean, low: low ?? mean, high: high ?? mean })) bar.style.setProperty(`--${name}`, place(value));
  const range = typeof low === "number" && make("span", { className: "note" }, ` ${twoDecimals(low)} to ${twoDecimals(high)}`);
  return make("td", {}, make("b", {}, twoDecimals(mean)), range, bar);
}
