// Written by scripts/page_options.py from service/options.py; `make lint` writes it again.

/**
 * The options of an `explain` request by name, each {kind, standard, least, most, choices}. The kinds are
 * text, class (a label or an index), number, switch, choice; `standard` counts where none is given.
 */
export const REQUEST = {
  top_k: { kind: "number", standard: 5, least: 1, most: 100000 },
  head: { kind: "class" },
  labels: { kind: "text" },
  scores: { kind: "switch", standard: false },
  layer: { kind: "text", standard: "default" },
  target: { kind: "class", standard: "predicted" },
  against: { kind: "class" },
  method: { kind: "text", standard: "gradcam" },
  output: { kind: "choice", standard: "heatmap", choices: ["heatmap", "overlay", "mask", "map", "regions", "scores", "hidden"] },
  size: { kind: "choice", standard: "picture", choices: ["picture", "model", "layer"] },
  registration: { kind: "choice", standard: "measured", choices: ["measured", "stretch"] },
  colormap: { kind: "text", standard: "turbo" },
  alpha: { kind: "number", standard: 0.5, least: 0, most: 1 },
  threshold: { kind: "number", standard: 0.5, least: 0, most: 1 },
  region: { kind: "text" },
  image_format: { kind: "choice", standard: "auto", choices: ["auto", "png", "jpeg", "webp"] },
  max_side: { kind: "number", standard: 1024, least: 16, most: 8192 },
  signed: { kind: "switch", standard: false },
  smooth: { kind: "number", standard: 0, least: 0, most: 64 },
  augment: { kind: "choice", standard: "none", choices: ["none", "flip"] },
  verify: { kind: "switch", standard: false },
  fuse: { kind: "choice", choices: ["max", "mean", "product"] },
};
