// What is on screen, as far as it can be shared. It lives in the address, so that a link, a reload and the back button
// all lead to the same view. A picture of one's own is the exception: it never leaves the browser by a link.

import { VIEW } from "../shared/options.js";
import { REQUEST } from "../shared/request.js";

const DEFAULTS = {
  tab: "explain",
  sample: "",
  model: "", // empty: the server's default, here and below
  head: "", // of a model with several outputs
  layer: "",
  method: "",
  target: "", // a class index, or text: and a sentence
  against: "",
  signed: REQUEST.signed.standard,
  smooth: REQUEST.smooth.standard,
  flip: false,
  fuse: "", // empty: every layer has its own map
  mode: VIEW.mode.standard,
  opacity: VIEW.opacity.standard,
  threshold: VIEW.threshold.standard,
  regions: VIEW.regions.standard,
  colormap: "",
  samples: false, // the gallery is of all samples
  by: "methods", // what the grid's columns are
  row: [], // the layers where there are several: the grid's rows, and what is fused
  column: [],
  sort: "added",
  show: "all",
  compare: [], // the layers that are measured; none: the server's suggestion
  by_method: [], // the methods at each of them
  purpose: [], // what maps are wanted for; none: everything
  evaluation: "", // the one that is shown
};

const CHOICES = {
  tab: ["explain", "grid", "gallery", "evaluate", "models"],
  mode: VIEW.mode.choices,
  fuse: REQUEST.fuse.choices,
  by: ["methods", "classes"],
  sort: ["added", "surest", "least", "entropy", "margin", "name"],
  show: ["all", "wrong", "right", "failed"],
};

const BOUNDS = { opacity: VIEW.opacity, threshold: VIEW.threshold, smooth: REQUEST.smooth };

export const state = { ...DEFAULTS, picture: "" };

const listeners = [];

/** Call `listener(names)` after every change, with the names of what changed. */
export const onChange = (listener) => listeners.push(listener);

/** Read an address's query; what cannot be right is left at its default. */
export function read(search) {
  const given = new URLSearchParams(search);
  return Object.fromEntries(Object.keys(DEFAULTS).map((name) => [name, readOne(given, name)]));
}

function readOne(given, name) {
  const standard = DEFAULTS[name];
  if (Array.isArray(standard)) return given.getAll(name);
  if (!given.has(name)) return standard;
  const text = given.get(name);
  if (typeof standard === "boolean") return text === "true";
  if (name in BOUNDS) {
    const { least, most } = BOUNDS[name];
    const number = Number(text || NaN);
    return number >= least && number <= most ? number : standard;
  }
  return name in CHOICES && !CHOICES[name].includes(text) ? standard : text;
}

/** The query that `read` turns into `values`; what is at its default is left out. */
export function write(values) {
  const query = new URLSearchParams();
  for (const [name, standard] of Object.entries(DEFAULTS)) {
    const value = values[name];
    if (Array.isArray(standard)) for (const item of value) query.append(name, item);
    else if (value !== standard) query.set(name, value);
  }
  return query.size ? `?${query}` : location.pathname;
}

/** Change the state and the address: `replace` for what the back button should not undo. */
export function change(patch, { replace = false } = {}) {
  const names = assign(patch);
  if (!names.length) return;
  history[replace ? "replaceState" : "pushState"]({ picture: state.picture }, "", write(state));
  tell(names);
}

/** The names of what a patch would change. */
export const changes = (patch) => Object.keys(patch).filter((name) => String(patch[name]) !== String(state[name]));

function assign(patch) {
  const names = changes(patch);
  Object.assign(state, patch);
  return names;
}

const tell = (names) => listeners.forEach((listener) => listener(new Set(names)));

const pictureOf = (sample) => history.state?.picture || (sample && `sample:${sample}`);

function fromAddress() {
  const found = read(location.search);
  return assign({ ...found, picture: pictureOf(found.sample) });
}

/** Take the state from the address, now and whenever somebody goes back or forward. */
export function follow() {
  addEventListener("popstate", () => tell(fromAddress()));
  fromAddress();
}
