// The options of a request and of a view, for the page, the viewer and the frame: names, defaults, bounds, closed lists.
// Each is {kind, standard, least, most, choices}; the kinds are text, class (a label or an index), number, switch, choice.

/** The options of an `explain` request, as `service/wire.py` declares them: those that are asked for from here. */
export const REQUEST = {
  head: { kind: "text" },
  layer: { kind: "text", standard: "default" },
  method: { kind: "text", standard: "gradcam" },
  target: { kind: "class", standard: "predicted" },
  against: { kind: "class" },
  signed: { kind: "switch", standard: false },
  smooth: { kind: "number", standard: 0, least: 0, most: 64 },
  augment: { kind: "choice", standard: "none", choices: ["none", "flip"] },
  fuse: { kind: "choice", choices: ["max", "mean", "product"] },
  colormap: { kind: "text", standard: "turbo" },
  alpha: { kind: "number", standard: 0.5, least: 0, most: 1 },
  threshold: { kind: "number", standard: 0.5, least: 0, most: 1 },
  top_k: { kind: "number", standard: 5 },
  max_side: { kind: "number", standard: 1024, least: 16, most: 8192 },
};

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
