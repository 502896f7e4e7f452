// The page: reads its state from the address, and brings the view in line with it whenever it changes.

import { announceReady } from "../shared/ready.js";
import { knownLayers, layersOf, load, modelNamed, offered, reloadModels } from "./catalogue.js";
import * as checks from "./checks.js";
import { $ } from "./dom.js";
import * as evaluate from "./evaluate.js";
import * as explain from "./explain.js";
import * as exporting from "./exports.js";
import * as gallery from "./gallery.js";
import * as grid from "./grid.js";
import { markSample, receive, showSamples, sorted } from "./incoming.js";
import * as layers from "./layers.js";
import * as models from "./models.js";
import * as panel from "./panel.js";
import { keep } from "./pictures.js";
import * as predictions from "./predictions.js";
import { change, follow, onChange, state, write } from "./state.js";
import { Task } from "./task.js";
import { control as controlView, listColormaps, paint, VIEW } from "./viewing.js";

const TABS = { explain, grid, gallery, evaluate, models };
const POLL_MS = 2000; // while models are loading

let reading; // the task that reads the catalogue

function react(names) {
  showTab(names.has("tab"));
  markSample(state.picture.startsWith("sample:") ? state.sample : "");
  panel.show();
  if (names.has("signed") || names.has("colormap")) listColormaps();
  if (names.has("model")) readCatalogue();
  paint();
  exporting.show();
  checks.show();
  if (names.has("sort") || names.has("show")) gallery.arrange();
  const ofTheView = [...VIEW, "sort", "show"];
  const asks = [...names].some((name) => !ofTheView.includes(name));
  if (asks || (state.tab !== "explain" && names.has("colormap"))) TABS[state.tab].update();
}

function showTab(moved) {
  Object.assign(document.body.dataset, { tab: state.tab, by: state.by });
  for (const tab of Object.keys(TABS)) {
    $(`${tab}-view`).hidden = tab !== state.tab;
    const link = $(`tab-${tab}`);
    link.href = write({ ...state, tab });
    if (tab === state.tab) link.ariaCurrent = "page";
    else link.ariaCurrent = null;
  }
  if (moved && !document.activeElement?.closest("header")) $(`${state.tab}-view`).focus({ preventScroll: true });
}

async function readCatalogue() {
  await reading.run("Reading what the server offers…", async (rest) => {
    await load(rest);
    panel.show();
    listColormaps();
    paint();
    explain.describe();
    await layersOf(state.model, rest);
    panel.show();
    grid.showControls();
  });
}

function take(incoming) {
  const { pictures, others } = sorted(state.tab === "evaluate" ? evaluate.withoutMarks(incoming) : incoming);
  if (!pictures.length) {
    if (others) $("announcement").textContent = "There is no picture among these files.";
    return;
  }
  $("announcement").textContent = "";
  const kept = pictures.map(({ file, path }) => keep(file, path));
  const many = ["gallery", "evaluate"].includes(state.tab) ? state.tab : "gallery";
  if (many !== "evaluate" && kept.length === 1 && !others) return one(kept[0]);
  gallery.fill(kept, others);
  if (state.tab === many && !state.samples) TABS[many].update();
  else change({ tab: many, samples: false });
}

/** Look at one picture: in the grid if that is where somebody is, otherwise in the single view. */
function one({ id, sample }) {
  const tab = state.tab === "grid" ? "grid" : "explain";
  change({ picture: id, sample, tab, target: "", against: "" });
}

const takeSample = (name) => one({ id: `sample:${name}`, sample: name });

function controlTabs() {
  for (const tab of Object.keys(TABS)) {
    $(`tab-${tab}`).addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab or window of the browser
      event.preventDefault();
      change({ tab });
    });
  }
}

/** There is something to take along, or no longer. A server that answers again can say what it offers, too. */
function answered() {
  exporting.show();
  checks.show();
  if ($("export").hidden) return;
  if (reading.failed) readCatalogue();
  else if (modelNamed(state.model)?.state === "unloaded") readStates(); // it has been loaded again
}

/** Models are other than before, or in another state. */
function modelsChanged() {
  panel.show();
  const chosen = modelNamed(state.model);
  if (chosen?.digest && !knownLayers(state.model) && !reading.running && !reading.failed) readCatalogue(); // it was replaced
}

const readStates = () => reloadModels().then(modelsChanged, () => {}); // the next one may succeed

function pollLoading() {
  const loading = offered.models.some((model) => model.state === "loading");
  if (loading && state.tab !== "models" && !document.hidden) readStates();
}

reading = new Task($("panel-problems"), $("panel-problems"), readCatalogue);
follow();
for (const view of [explain, grid]) view.control(answered);
for (const part of [layers, panel, predictions, checks, exporting]) part.control();
controlView();
controlTabs();
const samples = showSamples(takeSample);
gallery.control(answered, samples);
evaluate.control();
models.control(modelsChanged);
receive(take);
$("try").addEventListener("click", async () => takeSample((await samples).find((name) => /star/.test(name)) ?? (await samples)[0]));
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // a fragment would be another address
  $(`${state.tab}-view`).focus();
});
$("vacant").addEventListener("click", (event) => event.target.closest("button, label") || $("file").click());
onChange(react);
react(new Set(["picture"]));
samples.then(() => {
  markSample(state.sample);
  announceReady();
});
readCatalogue();
setInterval(pollLoading, POLL_MS);
