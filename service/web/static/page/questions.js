// The state as the options of a request, and as words.

import { colormapNamed, methodNamed, modelNamed, offered } from "./catalogue.js";
import { percent } from "./dom.js";
import { state } from "./state.js";

const DIVERGING = "coolwarm"; // as the server chooses for maps with a sign

const EMPTY = { // what it means that there is nothing to see, and what to do
  no_positive_evidence: "Nothing in this layer speaks for the class; whatever there is speaks against it. Try another " +
    "class or layer, or “For and against” among the options.",
  zero_gradient: "The class does not depend on this layer at all. Try another layer.",
  constant: "Every place counts the same, so none stands out. Try another layer or method.",
};

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
export function caption({ target, against, layer, method, signed, empty, reason, note }, model) {
  const goal = `“${target.label}” (${percent(target.probability)})`;
  const rather = against ? ` rather than “${against.label}” (${percent(against.probability)})` : "";
  const how = `at ${layer}, by ${methodNamed(method)?.title ?? method}`;
  if (empty) return `The map for ${goal}${rather} ${how} is empty. ${EMPTY[reason] ?? ""}`;
  const sides = signed ? "for (red) and against (blue)" : "for";
  return [`Where ${model} finds evidence ${sides} ${goal}${rather}, ${how}.`, note].filter(Boolean).join(" ");
}
