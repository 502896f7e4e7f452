// What the server offers, read once and kept: models, methods, colormaps, and each model's layers and labels.

import { ask } from "./api.js";

export const offered = { models: [], methods: [], colormaps: [], model: "", method: "", colormap: "" };

const pending = new Map(); // by what is read: asked for once, whoever wants it
const layers = new Map(); // by model

function once(key, read) {
  const forget = (error) => {
    pending.delete(key);
    throw error;
  };
  if (!pending.has(key)) pending.set(key, read().catch(forget));
  return pending.get(key);
}

/** Read models, methods and colormaps. */
export function load({ say } = {}) {
  return once("lists", async () => {
    const [models, methods, colormaps] = await Promise.all(
      ["models", "methods", "colormaps"].map((path) => ask(path, { say })),
    );
    Object.assign(offered, {
      models: models.models, model: models.default,
      methods: methods.methods, method: methods.default,
      colormaps: colormaps.colormaps, colormap: colormaps.default,
    });
  });
}

/** Read the models once more: their states change. */
export async function reloadModels() {
  const { models } = await ask("models");
  offered.models = models;
}

export const modelNamed = (name) => offered.models.find((model) => model.name === (name || offered.model));
export const methodNamed = (name) => offered.methods.find((method) => method.name === (name || offered.method));
export const colormapNamed = (name) => offered.colormaps.find((row) => row.name === (name || offered.colormap));

const path = (model, rest) => `models/${encodeURIComponent(model || offered.model)}/${rest}`;

/** A model's layer catalogue. */
export function layersOf(model, { say } = {}) {
  const name = model || offered.model;
  return once(`layers of ${name}`, async () => {
    const catalogue = await ask(path(name, "layers"), { say });
    layers.set(name, catalogue);
    return catalogue;
  });
}

/** The catalogue, if it has been read. */
export const knownLayers = (model) => layers.get(model || offered.model);

/** Classes of a model's head, or of its only output, whose label contains `query`. */
export const searchClasses = ({ model, head }, query) => ask(path(model, `classes?${classesOf(head, 50)}&q=${encodeURIComponent(query)}`));

/** All labels of a model's head, or of its only output, by index. */
export function labelsOf({ model, head }, { say } = {}) {
  const name = model || offered.model;
  return once(`labels of ${name} ${head}`, async () => (await ask(path(name, `classes?${classesOf(head, 100_000)}`), { say })).classes);
}

const classesOf = (head, limit) => new URLSearchParams({ limit, ...(head && { head }) });
