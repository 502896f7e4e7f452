// What is asked of an evaluation: its form.

import { plural } from "../shared/numbers.js";
import { layersOf, methodNamed, modelNamed, offered } from "./catalogue.js";
import { filtered, layerGroups, methodGroups } from "./choices.js";
import { $, put } from "./dom.js";
import { toggled } from "./layers.js";
import * as marks from "./marks.js";
import { Picker } from "./picker.js";
import { modelName } from "./questions.js";
import { change, state } from "./state.js";

const LEAST = 10; // pictures for a recommendation: LEAST_PICTURES of service/evaluation/recommendation.py
const MANY = 100; // with so many, differences of a tenth show: docs/evaluate.md
const METHOD = "gradcam";
const PURPOSES = ["class", "localisation", "faithfulness"];

let pictures = [];

/** Connect the form; `evaluate()` is called when it is sent. */
export function control(evaluate) {
  new Picker($("evaluate-layers"), {
    title: "Layers to measure", multiple: true, chosen: () => state.compare,
    choose: (layer) => change({ compare: toggled(state.compare, layer) }),
    groups: async (query) => filtered(layerGroups(await layersOf(state.model)), query),
  });
  new Picker($("evaluate-methods"), {
    title: "Methods to measure", multiple: true, chosen: methods,
    choose: (method) => change({ by_method: toggled(methods(), method) }),
    groups: async (query) => filtered(methodGroups(offered.methods, modelNamed(state.model), METHOD), query),
  });
  $("evaluate-suggested").addEventListener("click", () => {
    change({ compare: [] });
    $("evaluate-layers").focus(); // the button has gone
  });
  for (const purpose of PURPOSES) $(`for-${purpose}`).addEventListener("change", () => change({ purpose: ticked() }));
  controlMarks();
  $("evaluate-samples").addEventListener("click", () => change({ samples: true }));
  $("evaluate-form").addEventListener("submit", (event) => {
    event.preventDefault();
    evaluate();
  });
}

function controlMarks() {
  const takeMasks = (files) => marks.takeMasks(files.map((file) => ({ file, path: file.name })));
  for (const [id, take] of [["coco", ([file]) => marks.takeAnnotations(file)], ["masks", takeMasks]]) {
    $(id).addEventListener("change", () => {
      if ($(id).files.length) take([...$(id).files]);
      $(id).value = ""; // so that the same file can be chosen again
      show();
    });
  }
  $("no-marks").addEventListener("click", () => {
    marks.forget();
    show();
    $("coco").focus();
  });
}

const methods = () => (state.by_method.length ? state.by_method : [METHOD]);

function ticked() {
  const some = PURPOSES.filter((purpose) => $(`for-${purpose}`).checked);
  return some.length < PURPOSES.length ? some : [];
}

const isAskedFor = (purpose) => !state.purpose.length || state.purpose.includes(purpose);

/** These are the pictures from now on. */
export function fill(some) {
  const isSame = some.length === pictures.length && some.every((each, place) => each === pictures[place]);
  if (!isSame) marks.keepThoseOf(some, pictures);
  pictures = some;
  show();
}

/** Bring the form in line with the state. */
export function show() {
  $("evaluate-vacant").hidden = pictures.length > 0;
  $("evaluate-asked").hidden = !pictures.length;
  put($("evaluate-count"), `${plural(pictures.length, "picture")}.`);
  put($("evaluate-few"), enough(pictures.length));
  put($("evaluate-model"), modelName() || "…");
  put($("evaluate-layers"), state.compare.join(", ") || "the suggested ones");
  $("evaluate-suggested").hidden = !state.compare.length;
  put($("evaluate-methods"), methods().map((name) => methodNamed(name)?.title ?? name).join(", "));
  for (const purpose of PURPOSES) {
    $(`for-${purpose}`).checked = isAskedFor(purpose);
    $(`for-${purpose}`).disabled = state.purpose.length === 1 && isAskedFor(purpose); // something must be asked for
  }
  put($("marks-said"), marks.words());
  $("no-marks").hidden = !marks.words();
  $("unmarked").hidden = Boolean(marks.words()) || !isAskedFor("localisation");
}

function enough(count) {
  if (count < LEAST) return `With fewer than ${LEAST} pictures no layer can be recommended: add ${LEAST - count} or more.`;
  return count < MANY ? `Good layers may not be told apart by them: with ${MANY}, differences of a tenth show.` : "";
}

/** What is sent. */
export function form() {
  const sent = new FormData();
  for (const { file, path } of pictures) sent.append("image", file, path);
  marks.appendTo(sent);
  if (state.model) sent.append("model", state.model);
  const options = { layer: state.compare, method: methods(), purpose: state.purpose };
  for (const [name, values] of Object.entries(options)) for (const value of values) sent.append(name, value);
  return sent;
}

export const count = () => pictures.length;
