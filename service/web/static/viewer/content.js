// The elements in the viewer's shadow tree. They are made one by one: pages with `require-trusted-types-for` allow no markup.

import { make } from "../shared/elements.js";

const hidden = true;

/** A new `<figure>`. */
export function content() {
  return make("figure", {},
    stage(),
    make("p", { id: "how", hidden }, "Arrow keys move a cross-hair that reads the map."),
    scale(),
    part("p", { id: "legend", hidden }, make("span"), "Hatched: not seen by the model, which gets the rest of the picture only."),
    part("output", { id: "readout", hidden }),
    part("figcaption", { id: "caption", hidden }),
    part("div", { id: "problem", hidden },
      make("p", { id: "problem-text", attributes: { role: "alert" } }),
      make("button", { id: "retry", type: "button" }, "Try again")));
}

function stage() {
  const about = { role: "img", tabindex: 0, "aria-describedby": "how" };
  return part("div", { id: "stage", hidden },
    make("canvas", { id: "view", attributes: about }),
    make("input", {
      id: "divider", type: "range", min: 0, max: 100, step: 1, value: 50, hidden,
      attributes: { "aria-label": "Divider: picture left, heatmap right" },
    }),
    make("p", { id: "words", hidden, attributes: { role: "status" } }),
    make("div", { id: "progress", hidden },
      make("span", { id: "status", attributes: { role: "status" } }),
      make("button", { id: "cancel", type: "button" }, "Cancel")));
}

function scale() {
  return part("div", { id: "scale", hidden },
    make("span", { id: "low" }),
    make("canvas", { id: "bar", width: 256, height: 1, attributes: { role: "img" } }),
    make("span", { id: "high" }),
    make("span", { id: "zero" }, "0"));
}

/** An element that pages around may style, under the name of its id. */
const part = (tag, properties, ...children) =>
  make(tag, { ...properties, attributes: { part: properties.id } }, ...children);
