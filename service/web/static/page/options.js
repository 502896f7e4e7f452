// Written by scripts/page_options.py from service/options.py; `make lint` writes it again.

/** The options of a request by name, in the words of the OpenAPI document. `values` is the whole list. */
export const OPTIONS = {
  top_k: { types: ["integer"], default: 5, minimum: 1, maximum: 100000, predict: true },
  head: { types: ["integer", "string"], default: null, predict: true },
  layer: { types: ["string"], default: ["default"], repeatable: true },
  target: { types: ["integer", "string"], default: ["predicted"], repeatable: true },
  against: { types: ["integer", "string"], default: null },
  method: { types: ["string"], default: ["gradcam"], repeatable: true },
  output: { types: ["string"], default: ["heatmap"], values: ["heatmap", "overlay", "mask", "map", "regions"], repeatable: true },
  size: { types: ["string"], default: "picture", values: ["picture", "model", "layer"] },
  colormap: { types: ["string"], default: "turbo" },
  alpha: { types: ["number"], default: 0.5, minimum: 0, maximum: 1 },
  threshold: { types: ["number"], default: 0.5, minimum: 0, maximum: 1 },
  image_format: { types: ["string"], default: "auto", values: ["auto", "png", "jpeg", "webp"] },
  max_side: { types: ["integer"], default: 1024, minimum: 16, maximum: 8192 },
  signed: { types: ["boolean"], default: false },
  smooth: { types: ["integer"], default: 0, minimum: 0, maximum: 64 },
  augment: { types: ["string"], default: "none", values: ["none", "flip"] },
  fuse: { types: ["string"], default: null, values: ["max", "mean", "product"] },
};

/** What the server colours a map with a sign by, unless told otherwise. */
export const SIGNED_COLORMAP = "coolwarm";
