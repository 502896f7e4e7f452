// One picture seen at several layers by several methods, or for several classes: one request.

import { dataUrl } from "../shared/base64.js";
import { className, goal } from "../shared/captions.js";
import { make } from "../shared/elements.js";
import { plural } from "../shared/numbers.js";
import { explain } from "./explaining.js";
import { modelNamed, offered, searchClasses } from "./catalogue.js";
import { classGroups, classNamed, filtered, isSentence, methodGroups, refusal } from "./choices.js";
import { $, refill } from "./dom.js";
import { Picker } from "./picker.js";
import { areFused, ofSeveral, read, several, toggled } from "./layers.js";
import { find } from "./pictures.js";
import { classAsked, colormap, DEFAULTS, modelName, variant } from "./questions.js";
import { change, state } from "./state.js";
import { Task } from "./task.js";

const SIDE = 224; // px of a cell; the screen's density counts, too
const FIRST_METHODS = ["gradcam", "hirescam", "layercam", "eigencam"];
const FIRST_CLASSES = "top-3";

let task;
let tell;
let onScreen = null;

/** The question of the grid on screen, or null. */
export const asked = () => onScreen;

/** Called once; `answered()` is called after every answer. */
export function control(answered) {
  tell = answered;
  task = new Task($("grid-problems"), $("grid-problems"), update, { defaults: DEFAULTS });
  new Picker($("columns"), {
    title: "Columns of the grid", multiple: true, chosen: columns, groups: columnGroups,
    choose: (value) => change({ column: toggled(columns(), value) }),
  });
  for (const radio of document.querySelectorAll("[name=by]")) {
    radio.addEventListener("change", () => change({ by: radio.value, column: [] }));
  }
}

function columns() {
  if (state.column.length) return state.column;
  if (state.by === "methods") return firstMethods();
  return onScreen?.by === "classes" ? onScreen.explanations.slice(0, onScreen.width).map(({ target }) => named(target)) : [];
}

function firstMethods() {
  const model = modelNamed(state.model);
  const able = offered.methods.filter((method) => !refusal(method, model, state)).map(({ name }) => name);
  return FIRST_METHODS.filter((name) => able.includes(name));
}

const named = (one) => classNamed(modelNamed(state.model), one);

async function columnGroups(query) {
  const model = modelNamed(state.model);
  if (state.by === "classes") return classGroups(model, await searchClasses(state, query), onScreen?.predictions ?? [], query);
  return filtered(methodGroups(offered.methods, model, offered.method, state), query);
}

function question() {
  const classes = state.by === "classes";
  const methods = classes ? [state.method || offered.method] : columns();
  const targets = classes ? (state.column.length ? state.column : [FIRST_CLASSES]) : [state.target || "predicted"];
  return [
    ...ofSeveral(),
    ...methods.map((method) => ["method", method]),
    ...targets.map((target) => ["target", classAsked(target)]),
    ...(state.against && !targets.includes(state.against) ? [["against", classAsked(state.against)]] : []),
    ...variant(),
    ["output", "overlay"], ["colormap", colormap()], ["alpha", String(state.opacity)],
    ["max_side", String(Math.round(SIDE * Math.min(devicePixelRatio, 2)))],
  ];
}

/** Draw the grid that the state describes. */
export async function update() {
  showControls();
  await task.run("Explaining…", async ({ signal, say }) => {
    const picture = await find(state.picture);
    signal.throwIfAborted(); // something newer is on its way to the screen
    $("grid-vacant").hidden = Boolean(picture);
    if (!picture) return clear();
    await read({ say });
    signal.throwIfAborted();
    const asks = { picture, pictures: [picture], model: modelName(), options: question(), by: state.by };
    const key = JSON.stringify([picture.id, asks.model, asks.options]);
    if (onScreen?.key === key) return;
    $("table").ariaBusy = "true";
    const { results: [result] } = await explain(asks.model, [picture.file], asks.options, { signal, say });
    signal.throwIfAborted();
    const width = result.explanations.length / (areFused() ? 1 : several().length);
    onScreen = { ...asks, key, fused: areFused(), width, explanations: result.explanations, predictions: result.predictions };
    show();
    tell();
  });
  if (!task.running) $("table").ariaBusy = "false";
}

function clear() {
  onScreen = null;
  tell();
  $("table").replaceChildren();
  $("grid-caption").textContent = "";
}

/** Bring the controls in line with the state. */
export function showControls() {
  for (const radio of document.querySelectorAll("[name=by]")) radio.checked = radio.value === state.by;
  $("rows").textContent = plural(several().length, "layer");
  $("columns").textContent = plural(columns().length, ...(state.by === "methods" ? ["method"] : ["class", "classes"]));
}

function show() {
  const { explanations, width, by, picture } = onScreen;
  const first = explanations.slice(0, width);
  const heads = first.map((one) => make("th", { scope: "col" }, by === "methods" ? title(one.method) : className(one.target)));
  const body = [];
  for (let start = 0; start < explanations.length; start += width) {
    const cells = explanations.slice(start, start + width).map((one, at) => make("td", {}, cell(one, start + at)));
    body.push(make("tr", {}, make("th", { scope: "row" }, ...breakable(explanations[start].layer)), ...cells));
  }
  refill($("table"), [make("thead", {}, make("tr", {}, make("td", {}), ...heads)), make("tbody", {}, ...body)]);
  const { against } = first[0];
  const rather = against ? ` rather than ${className(against)}` : "";
  const what = by === "methods" ? `for ${goal(first[0])}` : `by ${title(first[0].method)}${rather}`;
  $("grid-caption").textContent = `Evidence ${what} in ${picture.file.name}. Click a cell to see it large.`;
  showControls();
}

/** A layer's name that may go on in the next line behind a dot, an underscore or a plus, rather than within a word. */
const breakable = (name) => name.split(/(?<=[._+])/).flatMap((part) => [make("wbr"), part]);

const title = (method) => offered.methods.find(({ name }) => name === method)?.title ?? method;

function cell(explanation, at) {
  const { layer, method, target, overlay, empty } = explanation;
  const what = `${layer}, ${title(method)}, ${target.label}${empty ? ": an empty map" : ""}`;
  const button = make("button", { type: "button", className: "cell", title: what, onclick: () => enlarge(explanation) },
    make("img", { src: dataUrl(overlay), alt: what, width: overlay.width, height: overlay.height }),
    empty && make("span", { className: "badge", ariaHidden: "true" }, "empty"));
  button.dataset.key = `cell-${at}`;
  return button;
}

function enlarge({ layer, method, target }) {
  const asked = named(target);
  const predicted = onScreen.predictions[0]?.index === target.index && !isSentence(asked); // of those beside it, another one is
  change({ tab: "explain", ...(onScreen.fused ? {} : { layer }), method, target: predicted ? "" : asked });
}
