// The form that adds a model, or replaces one. What was typed stays until the model is there: most mistakes are found by
// loading it.

import { problemWords } from "../shared/problems.js";
import { ask } from "./api.js";
import { $ } from "./dom.js";
import { arriving } from "./loading.js";
import { configuration } from "./model-keys.js";

const FIELDS = ["architecture", "weights", "labels", "layer"];

let awaited = ""; // the name of the model that is being loaded
let sending = false;
let tell;

/** Called once; `changed()` follows a change, and resolves when the list shows it. */
export function control(changed) {
  tell = changed;
  $("add-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!sending) submit();
  });
}

async function submit() {
  sending = true;
  fail("");
  const name = $("add-name").value.trim();
  try {
    const fields = Object.fromEntries(FIELDS.map((field) => [field, $(`add-${field}`).value.trim()]));
    const json = configuration(fields, $("add-keys").value);
    $("add-said").textContent = "Asking for it…";
    await ask(`models/${encodeURIComponent(name)}`, { method: "PUT", json, say: (text) => ($("add-said").textContent = text) });
    $("add-said").textContent = `${name} is being loaded.`;
    await tell(); // a list that was asked for before knows nothing of it, and is dropped from here on
    awaited = name;
  } catch (error) {
    fail(problemWords(error));
  }
  sending = false;
  await tell();
}

function fail(text) {
  $("add-said").textContent = "";
  $("add-problem").textContent = text;
  $("add-problem").hidden = !text;
}

/** See what has become of the model that was asked for; returns its name once it is there. */
export function settle(models) {
  const model = models.find(({ name }) => name === awaited);
  if (!awaited || (model && arriving(model))) return "";
  const name = awaited;
  const last = model?.versions.at(-1);
  awaited = "";
  if (model && last?.state !== "failed") {
    fail("");
    if (isTyped(name)) clear();
    return name;
  }
  const reason = last?.reason ?? `${name} was removed before it was ready.`;
  fail(isTyped(name) ? reason : `${name}: ${reason}`);
  return "";
}

/** Whether the form still says what was sent: meanwhile, somebody may have begun with the next model. */
const isTyped = (name) => $("add-name").value.trim() === name;

function clear() {
  $("add-form").reset();
  $("add").open = false;
}
