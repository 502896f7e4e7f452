// What of the view on screen can be taken along.

import { explain } from "./explaining.js";
import { curl, python } from "./commands.js";
import { $ } from "./dom.js";
import * as single from "./explain.js";
import * as gallery from "./gallery.js";
import * as grid from "./grid.js";
import { key } from "./key.js";
import { npy } from "./npy.js";
import { copy, save, fileName } from "./save.js";
import { state } from "./state.js";
import { Task } from "./task.js";

const COMMANDS = { curl, python };

let task;

/** Connect the buttons; called once. */
export function control() {
  task = new Task($("export"), $("export"), saveMap);
  $("save-png").addEventListener("click", savePicture);
  $("save-json").addEventListener("click", saveAnswer);
  $("save-npy").addEventListener("click", saveMap);
  $("copy-link").addEventListener("click", () => offer(location.href));
  for (const name of Object.keys(COMMANDS)) $(`copy-${name}`).addEventListener("click", () => offer(command(name)));
}

/** Offer what there is: called after every change and every answer. */
export function show() {
  $("export").hidden = !shown();
  $("command").hidden = true; // it was about another view
  $("copied").textContent = "";
}

const shown = () => ({ explain: single.asked, grid: grid.asked, gallery: gallery.asked })[state.tab]?.();

/** Copy a text, and show it: it can be read before it is run. */
function offer(text) {
  $("command").textContent = text;
  $("command").hidden = false;
  $("copied").textContent = ""; // of the text before
  copy(text, $("command"), $("copied"));
}

function command(name) {
  const { pictures, model, options } = shown();
  const base = new URL(".", document.baseURI).href;
  const files = pictures.map(({ path, sample }) => ({ name: path, sample }));
  return COMMANDS[name]({ base, model, options, pictures: files, key: key() !== "" });
}

/** The name of a file about what is on screen. */
function nameOf(ending) {
  const { picture, answer } = single.asked();
  const { target, layer, method } = answer.results[0].explanations[0];
  return fileName(picture.file.name, [target.label, layer, method], ending);
}

async function savePicture() {
  save(await $("viewer").toBlob(), nameOf("png"));
}

function saveAnswer() {
  save(JSON.stringify(single.asked().answer, null, 1), nameOf("json"), "application/json");
}

/** The raw map is asked for only when somebody wants it. */
function saveMap() {
  return task.run("Fetching the map…", async (rest) => {
    const { model, picture, question } = single.asked();
    const answer = await explain(model, [picture.file], [...question, ["output", "map"]], rest);
    save(npy(answer.results[0].explanations[0].map), nameOf("npy"), "application/octet-stream");
  });
}
