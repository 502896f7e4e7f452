// What is served: every model, how far it is, and, for those who may, changing it. It is read again and again while
// somebody looks.

import { words } from "../shared/problems.js";
import { load, offered, reloadModels } from "./catalogue.js";
import { $, put } from "./dom.js";
import { askForKey, key } from "./key.js";
import { arriving } from "./loading.js";
import { Card } from "./model-card.js";
import * as form from "./model-form.js";
import { chooseModel } from "./panel.js";
import { state } from "./state.js";
import { Task } from "./task.js";

const BUSY_MS = 1000; // while something is on its way
const CALM_MS = 5000;

const MANAGEMENT = {
  allowed: "",
  forbidden: "Models can be changed here, but not with your key: that takes one with the scope manage.",
  off: "Models are only shown here: whoever runs this server lets them be changed by the setting management " +
    "(camserve serve --management, or CAMSERVE_MANAGEMENT=true).",
};

const cards = new Map(); // by name
let task;
let tell;
let timer;

/** Called once; `changed()` is called whenever the models were read again. */
export function control(changed) {
  tell = changed;
  task = new Task($("models-problems"), $("models-problems"), update);
  form.control(refresh);
  document.addEventListener("visibilitychange", () => isWatched() && refresh());
  $("other-key").addEventListener("click", async () => {
    if (await askForKey(key(), "Give one that has the scope manage.")) refresh();
  });
}

/** Show the models, and go on doing so while the tab is looked at. */
export async function update() {
  const known = cards.size > 0 || (await task.run("Reading what is served…", load));
  if (known && isWatched()) await refresh();
}

const isWatched = () => state.tab === "models" && !document.hidden;

async function refresh() {
  clearTimeout(timer);
  try {
    await reloadModels();
    if (cards.size && $("models-said").dataset.lost) say("");
    show();
  } catch (error) {
    say(`This is not up to date. ${words(error)}`);
    $("models-said").dataset.lost = "yes";
  }
  clearTimeout(timer); // another may have come meanwhile
  timer = setTimeout(() => isWatched() && refresh(), offered.models.some(isMoving) ? BUSY_MS : CALM_MS);
}

const isMoving = (model) => arriving(model) || model.versions.some((version) => version.state === "draining");

function say(text) {
  put($("models-said"), text);
  delete $("models-said").dataset.lost;
}

function show() {
  tell();
  put($("models-title"), `Models: ${offered.models.length}`);
  put($("models-management"), MANAGEMENT[offered.management]);
  $("models-management").hidden = offered.management === "allowed";
  $("other-key").hidden = offered.management !== "forbidden";
  $("add").hidden = offered.management !== "allowed";
  arrange();
  const arrived = form.settle(offered.models);
  if (arrived) found(arrived);
}

/** Have a card for each model, in the server's order; those that stay where they are are not touched. */
function arrange() {
  const names = offered.models.map(({ name }) => name);
  for (const [name, card] of cards) if (!names.includes(name)) drop(name, card);
  offered.models.forEach((model, index) => {
    if (!cards.has(model.name)) cards.set(model.name, new Card(model.name, { use, remove, changed: refresh }));
    const card = cards.get(model.name);
    const there = $("models-list").children[index];
    if (there !== card.element) $("models-list").insertBefore(card.element, there ?? null);
    card.show(model);
  });
}

function drop(name, card) {
  const focused = card.element.contains(document.activeElement);
  card.element.remove();
  cards.delete(name);
  say(`${name} was removed.`);
  if (focused) $("models-view").focus();
}

/** The model that was asked for is there: say so, and lead to it. */
function found(name) {
  say(`${name} is ready.`);
  if ($("add").contains(document.activeElement) || document.activeElement === document.body) cards.get(name).title.focus();
}

const use = (name) => chooseModel(name, { tab: "explain" });

/** Ask whether a model is to go. */
function remove(name) {
  const dialog = $("remove-dialog");
  $("remove-title").textContent = `Remove ${name}?`;
  dialog.returnValue = "";
  $("remove-it").onclick = () => dialog.close("remove");
  $("remove-not").onclick = () => dialog.close();
  dialog.showModal();
  addEventListener("popstate", () => dialog.close(), { once: true }); // back leads to another view
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "remove"), { once: true });
  });
}
