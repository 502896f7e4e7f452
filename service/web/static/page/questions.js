// The state as the options of a request, and as words.

import { colormapNamed, methodNamed, modelNamed, offered } from "./catalogue.js";
import { percent } from "./dom.js";
import { state } from "./state.js";

const DIVERGING = "coolwarm"; // as the server chooses for maps with a sign

const REASONS = {
  no_positive_evidence: "nothing in this layer speaks for the class",
  zero_gradient: "the class does not depend on this layer at all",
  constant: "every place has the same value",
};

/** The options that several views share; the rest is theirs. */
export function variant() {
  return [
    state.signed && ["signed", "true"],
    state.smooth && ["smooth", String(state.smooth)],
    state.flip && ["augment", "flip"],
  ].filter(Boolean);
}

/** What the single view asks. */
export function question() {
  return [
    ["layer", state.layer || "default"],
    ["method", state.method || offered.method || "gradcam"],
    ["target", state.target || "predicted"],
    ...(state.against ? [["against", state.against]] : []),
    ...variant(),
  ];
}

/** How the view is drawn, for a server that draws it: the overlay on screen. */
export function drawing() {
  return [
    ["output", "overlay"],
    ["colormap", colormap()],
    ["alpha", String(state.opacity)],
    ...(state.regions ? [["output", "regions"], ["threshold", String(state.threshold || 0.5)]] : []),
  ];
}

/** The colormap in force: a map with a sign needs one with two sides. */
export function colormap() {
  const chosen = colormapNamed(state.colormap);
  if (state.signed) return chosen?.kind === "diverging" ? chosen.name : DIVERGING;
  return chosen?.name ?? "turbo";
}

export const modelName = () => modelNamed(state.model)?.name ?? state.model;

/** What an explanation shows, in a sentence or two. */
export function caption({ target, against, layer, method, empty, reason, note }, model) {
  const goal = `“${target.label}” (${percent(target.probability)})`;
  const rather = against ? ` rather than “${against.label}” (${percent(against.probability)})` : "";
  const how = `at ${layer}, by ${methodNamed(method)?.title ?? method}`;
  const said = empty
    ? `The map is empty: ${REASONS[reason] ?? "it shows nothing"} (${goal}${rather}, ${how}). Try another class, layer or method.`
    : `Where ${model} finds evidence for ${goal}${rather}, ${how}.`;
  return [said, note].filter(Boolean).join(" ");
}
