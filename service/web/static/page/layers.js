// Which layers are asked for: one; or several, as the grid's rows or to be fused into one map.

import { REQUEST } from "../shared/request.js";
import { knownLayers, layersOf, load } from "./catalogue.js";
import { filtered, layerGroups } from "./choices.js";
import { $ } from "./dom.js";
import { Picker } from "./picker.js";
import { change, state } from "./state.js";

/** Connect the pickers of several layers; called once. */
export function control() {
  for (const [id, title] of [["rows", "Layers of the grid"], ["layers", "Layers to fuse"]]) {
    new Picker($(id), {
      title, multiple: true, chosen: several, choose: (layer) => change({ row: toggled(several(), layer) }),
      groups: async (query) => filtered(layerGroups(await layersOf(state.model)), query),
    });
  }
}

/** The list without `value`, or with it behind the others. */
export const toggled = (list, value) => (list.includes(value) ? list.filter((one) => one !== value) : [...list, value]);

/** The names of several layers: those chosen, or the recommended ones as far as the catalogue has been read. */
export function several() {
  if (state.row.length) return state.row;
  const catalogue = knownLayers(state.model);
  return (catalogue?.layers ?? []).filter((layer) => layer.recommended || layer.name === catalogue.default).map(({ name }) => name);
}

/** Read what `several` chooses from. */
export async function read(rest) {
  await load(rest);
  await layersOf(state.model, rest);
}

/** Whether maps become one: of a single layer there is nothing to fuse. */
export const areFused = () => Boolean(state.fuse) && several().length > 1;

/** The options for several layers, and for what becomes of their maps. */
export const ofSeveral = () => [...several().map((layer) => ["layer", layer]), ...(areFused() ? [["fuse", state.fuse]] : [])];

/** The options for the views that show one map of each picture. */
export const ofOne = () => (state.fuse ? ofSeveral() : [["layer", state.layer || REQUEST.layer.standard]]);
