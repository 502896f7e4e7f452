// One evaluation: how far it is, and what came out.

import { make } from "../shared/elements.js";
import { plural, wholePercent } from "../shared/numbers.js";
import { problemWords, words } from "../shared/problems.js";
import { ask } from "./api.js";
import { load, methodNamed, modelNamed, offered, reloadModels } from "./catalogue.js";
import { $, put } from "./dom.js";
import { isOver } from "./following.js";
import { key } from "./key.js";
import { openReport, reportPath, saveReport } from "./report.js";
import { figures, PURPOSES, several } from "./figures.js";

const STATES = { queued: "Waits for its turn", done: "Done", failed: "Failed", cancelled: "Cancelled" };

const FOR_ALL = "For everybody, and for requests that name no layer:";
const FOR_GOOD = "For good:";
const UNTIL = "Of a model in the settings, that holds until the server starts again; what lasts is";

let act;
let taken; // which model, layer and method
let making = false; // the default is being changed
let entry = null; // the one that is on screen

/** Called once; `use(entry, row)` takes a layer, `cancel(entry)` ends what runs. */
export function control(actions) {
  act = actions;
  $("evaluation-cancel").addEventListener("click", () => act.cancel(entry));
  $("report-open").addEventListener("click", () => attempt(openReport));
  $("report-save").addEventListener("click", () => attempt(saveReport));
  $("use-now").addEventListener("click", makeDefault);
}

async function attempt(what) {
  fail("");
  try {
    await what(entry);
  } catch (error) {
    fail(problemWords(error));
  }
}

/** Show none. */
export function clear() {
  entry = null;
  $("evaluation").hidden = true;
  showSkipped([]);
  $("evaluation-result").replaceChildren();
  for (const id of ["evaluation-used", "evaluation-state", "evaluation-title"]) put($(id), "");
  fail("");
  $("use-note").hidden = true;
}

/** Bring what is shown in line with what the server says. */
export function show(told) {
  entry = told;
  const over = isOver(told);
  $("evaluation").hidden = false;
  fail(told.reason ?? "");
  put($("evaluation-title"), `${told.model} on ${plural(told.images, "picture")}`);
  put($("evaluation-state"), STATES[told.state] ?? sentence(told.stage ?? "begins"));
  put($("evaluation-left"), over ? "" : [` · ${wholePercent(told.progress)}`, left(told.eta_s)].filter(Boolean).join(" · "));
  $("evaluation-bar").hidden = $("evaluation-running").hidden = over;
  $("evaluation-bar").value = told.progress;
  put($("evaluation-note"), told.note);
  const isDone = told.state === "done" && Boolean(told.result);
  $("report").hidden = !isDone;
  $("report-link").href = `api/v1/${reportPath(told.id)}`;
  $("report-link").hidden = key() !== "";
  $("report-open").hidden = key() === "";
  if (told.skipped) showSkipped(told.skipped); // events need not repeat it
  if (isDone) draw(told.result);
}

/** What is shown is not up to date. */
export function lost(error) {
  put($("evaluation-state"), `This is not up to date. ${error.status === undefined ? "The connection broke off." : words(error)}`);
}

export function fail(text) {
  $("evaluation").hidden &&= !text;
  put($("evaluation-problem"), text);
  $("evaluation-problem").hidden = !text;
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

function left(seconds) {
  if (seconds === null) return "";
  if (seconds < 90) return `about ${plural(Math.max(1, Math.round(seconds)), "second")} left`;
  return `about ${plural(Math.round(seconds / 60), "minute")} left`;
}

function showSkipped(skipped) {
  $("skipped").hidden = !skipped.length;
  put($("skipped-count"), `${plural(skipped.length, "file")} left out`);
  $("skipped-list").replaceChildren(...skipped.map(({ name, text }) => make("li", {}, make("b", {}, name), `: ${text}`)));
}

// -- what came out ----------------------------------------------------------------------------------------------------

function draw(result) {
  const purposes = result.recommendations.map((each) => verdict(each, result));
  const warnings = result.warnings.map(({ code, text }) => make("li", {}, `${text} `, make("code", {}, code)));
  $("evaluation-result").replaceChildren(
    make("ul", { className: "purposes", ariaLabel: "Recommendations" }, ...purposes),
    make("ul", { className: "warnings", ariaLabel: "Warnings about the maps", hidden: !warnings.length }, ...warnings),
    ...figures(result, take),
  );
}

function verdict(recommendation, result) {
  const { purpose, layer, method, ties, text, none_because: nothing } = recommendation;
  const button = layer && make("button", {
    type: "button", className: "primary", onclick: () => take({ layer, method }),
  }, "Use this layer", make("span", { className: "unseen" }, ` ${candidate({ layer, method }, result)}`));
  const tied = ties.length > 1 && make("p", { className: "note" }, `Cannot be told apart: ${ties.join(", ")}.`);
  return make("li", { className: nothing ? "purpose none" : "purpose" }, make("h3", {}, PURPOSES[purpose] ?? purpose), make("p", {}, text), tied, button);
}

const candidate = ({ layer, method }, result) => (several(result) ? `${layer}, ${methodNamed(method)?.title ?? method}` : layer);

function take(row) {
  act.use(entry, row);
  taken = { model: entry.model, layer: row.layer, method: row.method };
  showTaken();
  load().then(showTaken, () => {}); // what came out may be drawn before it is known what the server offers
  $("use-note").hidden = false;
  put($("use-line"), `layer = ${JSON.stringify(row.layer)}`);
  put($("use-flag"), `,layer=${row.layer}`);
  put($("use-doing"), "");
  failDefault("");
}

function showTaken() {
  const { model, layer, method } = taken;
  put($("evaluation-used"), `From now on, this page explains with ${layer}, by ${methodNamed(method)?.title ?? method}. `);
  showDefault(modelNamed(model)?.default_layer === layer);
  $("use-make").hidden = offered.management !== "allowed";
  put($("use-for"), offered.management === "allowed" ? FOR_GOOD : FOR_ALL);
}

function showDefault(isDefault) {
  $("use-default").hidden = isDefault;
  $("is-default").hidden = !isDefault;
}

function failDefault(text) {
  put($("use-problem"), text);
  $("use-problem").hidden = !text;
}

/** The layer that was taken becomes the model's default, for whoever names none. */
async function makeDefault() {
  if (making) return;
  making = true;
  const { model, layer } = taken;
  failDefault("");
  put($("use-doing"), "The model is loaded again beside the one that answers…");
  try {
    await ask(`models/${encodeURIComponent(model)}/reload?wait=300&layer=${encodeURIComponent(layer)}`, { method: "POST" });
    await reloadModels();
    if (taken.model === model && taken.layer === layer) showDefault(true);
    $("evaluation-title").focus(); // the button has gone
    put($("use-doing"), `${layer} is the default layer of ${model} now. ${UNTIL} layer = ${JSON.stringify(layer)} in its [[models]] table.`);
  } catch (error) {
    put($("use-doing"), "");
    failDefault(problemWords(error));
  }
  making = false;
}
