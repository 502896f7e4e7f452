// The state as the options of a request, and as words.

import { caption } from "../shared/captions.js";
import { fitting, usual } from "../shared/colormaps.js";
import { REQUEST } from "../shared/request.js";
import { methodNamed, modelNamed, offered } from "./catalogue.js";
import { ofOne } from "./layers.js";
import { state } from "./state.js";

/** What leads back to what can be asked of any picture, whatever an address says. */
export const DEFAULTS = {
  model: "", head: "", layer: "", method: "", target: "", against: "", signed: false, smooth: 0, flip: false, fuse: "", row: [], column: [],
};

const ADVICE = { // what to do where there is nothing to see
  no_positive_evidence: "Whatever there is speaks against it. Try another class or layer, or “For and against” among the options.",
  zero_gradient: "Try another layer.",
  constant: "None stands out. Try another layer or method.",
};

/** A class of the state as a request names it: labels may be numbers, so an index has its sign. */
export const classAsked = (named) => named.replace(/^\d+$/, "#$&");

/** The options that several views share; the rest is theirs. */
export function variant() {
  return [
    state.head && ["head", state.head],
    state.signed && ["signed", "true"],
    state.smooth && ["smooth", String(state.smooth)],
    state.flip && ["augment", "flip"],
  ].filter(Boolean);
}

/** What the single view asks. */
export function question() {
  return [
    ...ofOne(),
    ["method", state.method || offered.method || REQUEST.method.standard],
    ["target", classAsked(state.target) || REQUEST.target.standard],
    ...(state.against ? [["against", classAsked(state.against)]] : []),
    ...variant(),
  ];
}

/** How the view is drawn, for a server that draws it: the overlay on screen. */
export function drawing() {
  return [
    ["output", "overlay"],
    ["colormap", colormap()],
    ["alpha", String(state.opacity)],
    ...(state.regions ? [["output", "regions"], ["threshold", String(state.threshold || REQUEST.threshold.standard)]] : []),
  ];
}

/** The name of the colormap in force: a map with a sign needs one with two sides. */
export function colormap() {
  const { colormaps, colormap: standard } = offered;
  const chosen = fitting(colormaps, state.signed).find(({ name }) => name === state.colormap);
  return (chosen ?? usual({ colormaps, standard }, state.signed))?.name ?? REQUEST.colormap.standard;
}

export const modelName = () => modelNamed(state.model)?.name ?? state.model;

/** What an explanation shows, in a sentence or two. */
export const sentence = (explanation, model) =>
  caption(explanation, { model, method: methodNamed(explanation.method)?.title ?? explanation.method, advice: ADVICE });
