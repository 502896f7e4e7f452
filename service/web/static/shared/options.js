// How a view is drawn, and what a viewer may be told, in the same form as the options of a request: see request.js.

import { REQUEST } from "./request.js";

/** How a view is drawn: none of these asks the server. */
export const VIEW = {
  mode: { kind: "choice", standard: "overlay", choices: ["overlay", "heatmap", "original", "side", "swipe"] },
  opacity: { kind: "number", standard: 0.55, least: 0, most: 1 },
  threshold: { kind: "number", standard: 0, least: 0, most: 1 }, // of the colours: nothing is hidden
  regions: { kind: "switch", standard: false },
};

/** What a viewer is told as attributes, and a frame in its address or by message: what is asked, and how it is drawn. */
export const ASKED = {
  model: { kind: "text" },
  ...Object.fromEntries(
    ["head", "layer", "target", "against", "method", "colormap", "signed"].map((name) => [name, REQUEST[name]]),
  ),
};

/** Asks for the picture itself, in a format that every browser shows: an overlay in which nothing lies over it. */
export const PICTURE_ITSELF = [["output", "overlay"], ["alpha", "0"]];
