// Which layer? Layers and methods are measured on the pictures of the gallery, by the server, while other things go on.

import { plural } from "../shared/numbers.js";
import { problemWords } from "../shared/problems.js";
import { ask, LARGE } from "./api.js";
import { load, offered } from "./catalogue.js";
import { $, put } from "./dom.js";
import * as list from "./evaluations.js";
import { follow, isOver } from "./following.js";
import * as gallery from "./gallery.js";
import * as marks from "./marks.js";
import * as measured from "./measured.js";
import * as outcome from "./outcome.js";
import { chooseModel } from "./panel.js";
import { modelName } from "./questions.js";
import { change, state } from "./state.js";
import { Task } from "./task.js";

let reading; // tasks
let sending;
let shown = ""; // the id of the evaluation that is on screen
let following; // the controller of what is told of it

/** Called once. */
export function control() {
  const place = $("evaluate-problems");
  reading = new Task(place, place, update);
  sending = new Task(place, place, evaluate);
  measured.control(evaluate);
  outcome.control({ use, cancel });
  list.control({ look: (id) => change({ evaluation: id }), forget });
}

/** What came in without what is marked on it: that is taken along. */
export function withoutMarks(incoming) {
  const pictures = marks.takeFrom(incoming);
  measured.show();
  return pictures;
}

/** Show what is asked for, and the evaluation that the state names. */
export async function update() {
  measured.show();
  if (state.evaluation !== shown) show(state.evaluation);
  list.refresh();
  await reading.run("Reading what is served…", async (rest) => {
    const pictures = await gallery.gathered(rest);
    rest.signal.throwIfAborted();
    measured.fill(pictures); // before anything is waited for: others may come meanwhile, and some masks go with these
    await load(rest);
    measured.show();
  });
}

async function evaluate() {
  if (sending.running) return;
  await sending.run(`Sending ${plural(measured.count(), "picture")}…`, async ({ signal, say }) => {
    const entry = await ask("evaluations", { form: measured.form(), signal, say, manner: LARGE });
    change({ evaluation: entry.id, tab: "evaluate" });
    outcome.show(entry); // at once: what is hidden takes no focus
    $("evaluation-title").focus();
  });
}

async function show(id) {
  following?.abort();
  shown = id;
  outcome.clear();
  $("evaluate-asked").open = !id; // what came out comes first
  if (!id) return;
  const { signal } = (following = new AbortController());
  const path = `evaluations/${encodeURIComponent(id)}`;
  try {
    const { state: reached } = await follow(id, { told: outcome.show, lost: outcome.lost, signal });
    if (reached === "cancelled") outcome.fail("It was cancelled, and nothing of it is kept.");
    else outcome.show(await ask(path, { signal }));
    list.refresh();
  } catch (error) {
    if (!signal.aborted) outcome.fail(problemWords(error));
  }
}

/** From now on, the page explains with this layer and method. */
function use({ model }, { layer, method }) {
  const chosen = { layer, method: method === offered.method ? "" : method, head: "", fuse: "" };
  if (model === modelName()) change(chosen);
  else chooseModel(model, { method: "", ...chosen });
}

/** End an evaluation; nothing of it is kept. */
async function cancel(entry) {
  try {
    await ask(`evaluations/${encodeURIComponent(entry.id)}`, { method: "DELETE" });
  } catch (error) {
    if (error.status !== 404) return outcome.fail(problemWords(error)); // otherwise it has gone already
  }
  forgotten(entry, isOver(entry) ? "was deleted" : "was cancelled, and nothing of it is kept");
}

function forgotten({ id, model, images }, how) {
  if (state.evaluation === id) change({ evaluation: "" }, { replace: true });
  put($("evaluations-said"), `The evaluation of ${model} on ${plural(images, "picture")} ${how}.`);
  $("evaluate-view").focus({ preventScroll: true });
  list.refresh();
}

async function forget(entry) {
  if (await list.confirmed(entry)) await cancel(entry);
}
