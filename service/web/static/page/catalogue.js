// What the server offers, read once and kept: models, methods, colormaps, and each model's layers and labels.

import { ask, peek } from "./api.js";

export const offered = { models: [], methods: [], colormaps: [], model: "", method: "", colormap: "", management: "off" };

const pending = new Map(); // by what is read: asked for once, whoever wants it
const layers = new Map(); // by model and digest
let asked = 0; // how often the models were read, and which of these answers is in force
let inForce = 0;

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
    take(models);
    Object.assign(offered, {
      methods: methods.methods, method: methods.default,
      colormaps: colormaps.colormaps, colormap: colormaps.default,
    });
  });
}

function take({ models, default: model, management = "off" }) {
  Object.assign(offered, { models, model, management });
  for (const { name } of models) keepLayers(name);
}

/** Layers that were read before the model's digest was known are those of this digest. */
function keepLayers(name) {
  const before = `${name} `;
  if (edition(name) === before || !layers.has(before)) return;
  layers.set(edition(name), layers.get(before));
  layers.delete(before);
}

/** Read the models once more: they come, change and go. */
export async function reloadModels() {
  const turn = ++asked;
  const answer = await peek("models");
  if (turn < inForce) return; // a later one was faster
  inForce = turn;
  take(answer);
}

export const modelNamed = (name) => offered.models.find((model) => model.name === (name || offered.model));
export const methodNamed = (name) => offered.methods.find((method) => method.name === (name || offered.method));
export const colormapNamed = (name) => offered.colormaps.find((row) => row.name === (name || offered.colormap));

const path = (model, rest) => `models/${encodeURIComponent(model || offered.model)}/${rest}`;

/** A model as it is now: replaced, it has other layers and labels. */
const edition = (model) => `${model || offered.model} ${modelNamed(model)?.digest ?? ""}`;

/** A model's layer catalogue. */
export function layersOf(model, { say } = {}) {
  const wanted = edition(model);
  return once(`layers of ${wanted}`, async () => {
    const catalogue = await ask(path(model, "layers"), { say });
    layers.set(wanted, catalogue);
    return catalogue;
  });
}

/** The catalogue, if it has been read. */
export const knownLayers = (model) => layers.get(edition(model));

const LONGEST_QUERY = 200; // characters that are searched for; sentences may be longer

/** Classes of a model's head, or of its only output, whose label contains `query`. */
export function searchClasses({ model, head }, query) {
  const begin = [...query].slice(0, LONGEST_QUERY).join("").toWellFormed();
  return ask(path(model, `classes?${classesOf(head, 50)}&q=${encodeURIComponent(begin)}`));
}

/** All labels of a model's head, or of its only output, by index. */
export function labelsOf({ model, head }, { say } = {}) {
  return once(`labels of ${edition(model)} ${head}`, async () => (await ask(path(model, `classes?${classesOf(head, 100_000)}`), { say })).classes);
}

const classesOf = (head, limit) => new URLSearchParams({ limit, ...(head && { head }) });
