// A model's layer catalogue as a table, read when somebody opens it.

import { make } from "../shared/elements.js";
import { words } from "../shared/problems.js";
import { knownLayers, layersOf } from "./catalogue.js";
import { put } from "./dom.js";

const TITLES = ["Layer", "Type", "Channels × height × width", "Where its cells look", "Notes"];

export class Layers {
  constructor(name) {
    this.name = name;
    this.body = make("tbody");
    const heads = TITLES.map((title) => make("th", { scope: "col" }, title));
    const table = make("table", { ariaLabel: `Layers of ${name}` }, make("thead", {}, make("tr", {}, ...heads)), this.body);
    const attributes = { role: "region", "aria-label": `Layers of ${name}`, tabindex: "0" };
    this.scroll = make("div", { className: "scroll catalogue", hidden: true, attributes }, table);
    this.said = make("p", { className: "note", attributes: { role: "status" } });
    this.element = make("details", { ontoggle: () => this.show() }, make("summary", {}, "Layers"), this.said, this.scroll);
  }

  /** Show the layers of the model as it is now, if anybody looks. */
  async show() {
    if (!this.element.open || this.reading) return;
    this.reading = true;
    if (!knownLayers(this.name)) put(this.said, "Reading the layers…");
    try {
      const { layers, default: standard } = await layersOf(this.name);
      if (this.shown !== layers) this.body.replaceChildren(...layers.map((layer) => row(layer, standard)));
      this.shown = layers;
      put(this.said, `${layers.length} layers, ${layers.filter(({ explainable }) => explainable).length} of which can be explained.`);
      this.scroll.hidden = false;
    } catch (error) {
      put(this.said, words(error));
    }
    this.reading = false;
  }
}

function row({ name, type, shape, placement, explainable, recommended, note }, standard) {
  const tag = name === standard ? "default" : recommended ? "★ recommended" : "";
  const notes = [!explainable && "cannot be explained", note].filter(Boolean).join(": ");
  return make("tr", { className: explainable ? "" : "refused" },
    make("th", { scope: "row" }, name, tag && make("span", { className: "tag" }, ` ${tag}`)),
    make("td", {}, type), make("td", {}, shape.join(" × ")), make("td", {}, placement ? placed(placement) : "–"), make("td", {}, notes));
}

const short = (number) => Number(number.toFixed(1));

/** In pixels of the model's input. */
function placed({ x: [left, across], y: [top, down], by }) {
  return by === "stretch" ? "stretched over the input" : `from (${short(left)}, ${short(top)}) every ${short(across)} × ${short(down)} px`;
}
