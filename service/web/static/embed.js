// The page for frames: a viewer that the page around it speaks to, by messages. docs/embedding.md says which.
// It listens to one origin and speaks to one origin, the parameter `origin`; without it to nobody. It keeps nothing.

import "./camserve-viewer.js";

const WORDS = ["model", "head", "layer", "target", "against", "method", "colormap", "mode"];
const SHARES = ["opacity", "threshold"];
const SWITCHES = ["regions", "signed"];
const CLASSES = ["target", "against"]; // by label or by index
const OPTIONS = [...WORDS, ...SHARES, ...SWITCHES];
const LONGEST = 300; // characters of an option: labels are long, but not longer
const PICTURES = ["heatmap", "overlay", "mask", "map", "regions"]; // of an explanation: large, and not for messages

const viewer = document.getElementById("viewer");
const parameters = new URLSearchParams(location.search);
const partner = partnerOf(parameters.get("origin"));

/** The origin to speak with: only a complete one, never "*" or "null". */
function partnerOf(text) {
  const origin = URL.canParse(text ?? "") ? new URL(text).origin : null;
  if (text !== null && (origin !== text || origin === "null")) {
    console.warn(`camserve: ?origin=${text} is not an origin such as https://host:port, so no messages are exchanged.`);
    return null;
  }
  return window.parent === window ? null : origin;
}

function tell(type, content = {}) {
  if (partner) window.parent.postMessage({ type: `camserve:${type}`, ...content }, partner);
}

// ---- What comes in

/** Say what is wrong with an option, or nothing. Null stands for the default. */
function complaint(name, value) {
  if (!OPTIONS.includes(name)) return `there is no option “${name}”`;
  if (value === null) return "";
  const index = CLASSES.includes(name) && Number.isInteger(value);
  const short = typeof value === "string" && value.length <= LONGEST;
  if (WORDS.includes(name) && !index && !short) return `“${name}” is not a short text`;
  if (SHARES.includes(name) && !(value >= 0 && value <= 1 && typeof value === "number")) return `“${name}” is not a number from 0 to 1`;
  if (SWITCHES.includes(name) && typeof value !== "boolean") return `“${name}” is not true or false`;
  return "";
}

function apply(options) {
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === false) viewer.removeAttribute(name);
    else viewer.setAttribute(name, value === true ? "" : value);
  }
}

/** A picture as something that the viewer can ask about; null if it is none. */
function pictureOf(value) {
  if (value instanceof Blob) return value;
  if (value instanceof ArrayBuffer) return new Blob([value]);
  return typeof value === "string" && value.startsWith("data:") ? value : null;
}

/** Do what a message asks, or throw what is wrong with it; nothing of a wrong message is done. */
function follow(message) {
  if (message === null || typeof message !== "object") throw new TypeError("a message is an object with a type");
  const { type, picture, key, ...options } = message;
  if (type !== "camserve:explain" && type !== "camserve:set") throw new TypeError("its type is not camserve:explain or camserve:set");
  if (key !== undefined && key !== null && typeof key !== "string") throw new TypeError("“key” is not a text");
  const problem = Object.entries(options).map(([name, value]) => complaint(name, value)).find(Boolean);
  if (problem) throw new TypeError(problem);
  const source = pictureOf(picture);
  if (type === "camserve:explain" && !source) throw new TypeError("“picture” is not a Blob, an ArrayBuffer or a data: URL");
  if (type === "camserve:set" && picture !== undefined) throw new TypeError("a picture comes with camserve:explain");
  if (key !== undefined) viewer.key = key;
  apply(options);
  if (source) start(source);
}

function start(source) {
  document.getElementById("hint").hidden = true;
  viewer.explain(source);
}

window.addEventListener("message", (event) => {
  if (!partner || event.source !== window.parent || event.origin !== partner) return;
  try {
    follow(event.data);
  } catch (error) {
    tell("error", { code: "invalid_message", message: `The message cannot be used: ${error.message}.` });
  }
});

// ---- What goes out

viewer.addEventListener("camserve-explained", ({ detail: { answer, result, explanation } }) => {
  const summary = Object.fromEntries(Object.entries(explanation).filter(([name]) => !PICTURES.includes(name)));
  const { image, view, predictions } = result;
  tell("explained", { id: answer.id, model: answer.model, image, view, predictions, explanation: summary });
});
viewer.addEventListener("camserve-error", ({ detail }) => tell("error", detail));
viewer.addEventListener("camserve-hover", ({ detail }) => tell("hover", detail));

for (const name of [...WORDS, ...SHARES]) {
  if (parameters.get(name)) viewer.setAttribute(name, parameters.get(name));
}
for (const name of SWITCHES) viewer.toggleAttribute(name, ["", "1", "true"].includes(parameters.get(name)));
if (parameters.get("src")) start(parameters.get("src"));
tell("ready");
