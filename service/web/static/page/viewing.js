// How the single view looks: nothing here asks the server for anything.

import { make } from "../shared/elements.js";
import { wholePercent } from "../shared/numbers.js";
import { VIEW as LOOKS } from "../shared/options.js";
import { colormapNamed, offered } from "./catalogue.js";
import { $ } from "./dom.js";
import { colormap } from "./questions.js";
import { change, state } from "./state.js";

/** What changes the view and asks for nothing. */
export const VIEW = [...Object.keys(LOOKS), "colormap"];

const SLIDERS = ["opacity", "threshold"];

/** Connect the controls; called once. */
export function control() {
  for (const radio of document.querySelectorAll("[name=mode]")) {
    radio.addEventListener("change", () => change({ mode: radio.value }, { replace: true }));
  }
  for (const name of SLIDERS) {
    $(name).addEventListener("input", () => paint({ ...state, [name]: $(name).value / 100 }));
    $(name).addEventListener("change", () => change({ [name]: $(name).value / 100 }, { replace: true }));
  }
  $("regions").addEventListener("change", () => change({ regions: $("regions").checked }, { replace: true }));
  $("colormap").addEventListener("change", () => change({ colormap: $("colormap").value }, { replace: true }));
}

/** Bring viewer and controls in line with `values`: the state, or what a slider is about to make of it. */
export function paint(values = state) {
  const viewer = $("viewer");
  const { mode, opacity, threshold, regions } = values;
  const palette = colormapNamed(colormap())?.table;
  if (palette && viewer.palette !== palette) viewer.palette = palette;
  Object.assign(viewer, { mode, opacity, threshold, regions });
  for (const radio of document.querySelectorAll("[name=mode]")) radio.checked = radio.value === mode;
  for (const name of SLIDERS) {
    $(name).value = Math.round(values[name] * 100);
    $(`${name}-value`).textContent = name === "threshold" && !values[name] ? "off" : wholePercent(values[name]);
  }
  $("regions").checked = regions;
  $("opacity-row").hidden = mode === "original" || mode === "heatmap";
  $("threshold-row").hidden = $("look").hidden = mode === "original";
}

/** List the colormaps, those that fit a map with or without a sign. */
export function listColormaps() {
  const kinds = { sequential: "One-sided", diverging: "Two-sided, for maps with a sign" };
  const groups = Object.entries(kinds).map(([kind, label]) => {
    const rows = offered.colormaps.filter((row) => row.kind === kind);
    const options = rows.map(({ name }) => new Option(name, name));
    return make("optgroup", { label, disabled: state.signed && kind !== "diverging" }, ...options);
  });
  $("colormap").replaceChildren(...groups);
  $("colormap").value = colormap();
}
