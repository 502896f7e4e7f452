// The evaluations that this visitor may see: what runs, and what came out before.

import { make } from "../shared/elements.js";
import { plural, wholePercent } from "../shared/numbers.js";
import { words } from "../shared/problems.js";
import { peek } from "./api.js";
import { $, put, redraw } from "./dom.js";
import { isOver } from "./following.js";
import { state } from "./state.js";

const POLL_MS = 5000; // while one of them waits or runs

const STATES = { queued: "waits for its turn", running: "runs", done: "done", failed: "failed", cancelled: "cancelled" };

const DELETE = { what: "Delete", text: "Its report and figures are gone then." };
const CANCEL = { what: "Cancel", text: "It is ended, and nothing of it is kept." };

let act;
let timer;

/** Called once; `look(id)` shows one, `forget(entry)` deletes it. */
export function control(actions) {
  act = actions;
  document.addEventListener("visibilitychange", () => isWatched() && refresh());
}

const isWatched = () => state.tab === "evaluate" && !document.hidden;

/** Read them again, and go on doing so while something happens and somebody looks. */
export async function refresh() {
  clearTimeout(timer);
  try {
    const { evaluations } = await peek("evaluations");
    draw(evaluations.reverse());
    if (evaluations.every(isOver)) return;
  } catch (error) {
    if (error.status === 401) return; // what else is read asks for a key
    put($("evaluations-said"), `This list is not up to date. ${words(error)}`);
  }
  clearTimeout(timer); // another may have come meanwhile
  timer = setTimeout(() => isWatched() && refresh(), POLL_MS);
}

function draw(entries) {
  $("evaluations-card").hidden = !entries.length && !$("evaluations-said").textContent;
  redraw($("evaluations"), [state.evaluation, entries], () => entries.map(row));
}

function row(entry) {
  const { id, model, images, created } = entry;
  const when = new Date(created * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const name = `${model}, ${plural(images, "picture")}`;
  const chosen = id === state.evaluation;
  const look = make("button", { type: "button", className: "entry-name", onclick: () => act.look(id) },
    name, make("span", { className: "unseen" }, ` of ${when}`));
  if (chosen) look.ariaCurrent = "true";
  look.dataset.key = `look-${id}`;
  const drop = make("button", { type: "button", onclick: () => act.forget(entry) }, isOver(entry) ? "Delete…" : "Cancel…",
    make("span", { className: "unseen" }, ` ${name} of ${when}`));
  drop.dataset.key = `drop-${id}`;
  return make("li", { className: "row" }, look, make("span", { className: "note" }, `${when}, ${how(entry)}`),
    make("span", { className: "push" }, drop));
}

const how = ({ state: reached, progress }) => (reached === "running" ? `${STATES[reached]}: ${wholePercent(progress)}` : STATES[reached]);

/** Ask whether an evaluation is to go. */
export function confirmed(entry) {
  const dialog = $("forget-dialog");
  const { what, text } = isOver(entry) ? DELETE : CANCEL;
  put($("forget-title"), `${what} the evaluation of ${entry.model} on ${plural(entry.images, "picture")}?`);
  put($("forget-text"), text);
  put($("forget-it"), `${what} it`);
  dialog.returnValue = "";
  $("forget-it").onclick = () => dialog.close("forget");
  $("forget-not").onclick = () => dialog.close();
  dialog.showModal();
  addEventListener("popstate", () => dialog.close(), { once: true }); // back leads to another view
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "forget"), { once: true });
  });
}
