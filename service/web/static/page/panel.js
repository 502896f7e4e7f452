// Which model, which layer, which method: the pickers beside the picture, and the model's card.

import { make } from "../shared/elements.js";
import { REQUEST } from "../shared/request.js";
import { knownLayers, layersOf, methodNamed, modelNamed, offered } from "./catalogue.js";
import { filtered, headGroups, layerGroups, methodGroups, modelGroups } from "./choices.js";
import { $, redraw } from "./dom.js";
import { facts } from "./facts.js";
import { several } from "./layers.js";
import { modelWords } from "./loading.js";
import { Picker } from "./picker.js";
import { change, state } from "./state.js";

/** Connect the pickers and the options; called once. */
export function control() {
  for (const id of ["model", "evaluate-model"]) {
    new Picker($(id), {
      title: "Model", choose: (name) => chooseModel(name), chosen: () => [modelNamed(state.model)?.name],
      groups: async (query) => filtered(modelGroups(offered.models), query),
    });
  }
  new Picker($("head"), {
    title: "Head", choose: chooseHead, chosen: () => [headName()],
    groups: async (query) => filtered(headGroups(modelNamed(state.model)), query),
  });
  new Picker($("layer"), {
    title: "Layer", choose: (layer) => change({ layer }), chosen: () => [layerName()],
    groups: async (query) => filtered(layerGroups(await layersOf(state.model)), query),
  });
  new Picker($("method"), {
    title: "Method", choose: (method) => change({ method }), chosen: () => [state.method || offered.method],
    groups: async (query) => filtered(methodGroups(offered.methods, modelNamed(state.model), offered.method, state), query),
  });
  for (const name of ["signed", "flip"]) {
    $(name).addEventListener("change", () => change({ [name]: $(name).checked }));
  }
  $("smooth").addEventListener("change", () => change({ smooth: Number($("smooth").value) }));
  $("fuse").append(...REQUEST.fuse.choices.map((how) => new Option(FUSED[how] ?? how, how)));
  $("fuse").addEventListener("change", () => change({ fuse: $("fuse").value }));
}

const FUSED = { max: "the strongest of them", mean: "their mean", product: "where all agree" };

/** Class 3 or layer4 of another model is something else; methods are the same, unless it refuses one. */
export function chooseModel(model, rest = {}) {
  const refused = modelNamed(model)?.refused_methods[state.method];
  change({ model, head: "", layer: "", target: "", against: "", row: [], column: [], compare: [], ...(refused && { method: "" }), ...rest });
}

/** Class 3 of another head is something else, too. */
const chooseHead = (head) => change({ head, target: "", against: "", column: [] });

const headName = () => state.head || modelNamed(state.model)?.default_head || "";
const layerName = () => state.layer || modelNamed(state.model)?.default_layer || "";

/** Show what is chosen. */
export function show() {
  const model = modelNamed(state.model);
  const method = methodNamed(state.method);
  const name = layerName();
  const layer = knownLayers(state.model)?.layers.find((row) => row.name === name);
  $("model").textContent = model?.name ?? (state.model || "…");
  $("head-field").hidden = Object.keys(model?.heads ?? {}).length < 2 && !state.head;
  $("head").textContent = headName();
  $("layer").textContent = name || "…";
  $("method").textContent = method?.title ?? (state.method || "…");
  $("method-note").textContent = method?.summary ?? "";
  $("layer-note").textContent = layer ? layerNote(layer) : "";
  $("layer-unused").hidden = !method || method.uses_layer;
  $("signed").checked = state.signed;
  $("signed").disabled = !state.signed && method?.signed === false;
  $("flip").checked = state.flip;
  $("smooth").value = String(state.smooth);
  showFuse(method);
  showCard(model);
}

/** Where maps are fused, there are several layers to choose, in whatever view. */
function showFuse(method) {
  $("fuse").value = state.fuse;
  $("fuse").disabled = !state.fuse && method?.uses_layer === false;
  $("layer-field").hidden = Boolean(state.fuse);
  $("layers-field").hidden = !state.fuse;
  $("layers").textContent = several().join(" + ") || "…";
  $("fuse-note").hidden = !state.fuse || several().length !== 1;
}

const layerNote = ({ type, shape, note }) =>
  [`${type}, ${shape[2]} × ${shape[1]} cells, ${shape[0]} channels.`, note && `${note[0].toUpperCase()}${note.slice(1)}.`]
    .filter(Boolean).join(" ");

function showCard(model) {
  if (!model) return;
  $("model-note").textContent = model.reason ?? (model.state === "ready" ? "" : `${modelWords(model.state)}.`);
  redraw($("model-warnings"), model.warnings, (warnings) => warnings.map(({ text }) => make("li", {}, text)));
  redraw($("card"), facts(model), (rows) => rows.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]));
}
