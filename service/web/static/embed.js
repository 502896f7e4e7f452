// The page for frames: a viewer that the page around it speaks to, by messages. docs/embedding.md says which.
// It listens to one origin and speaks to one origin, the parameter `origin`; without it to nobody. It keeps nothing.

import "./camserve-viewer.js";
import { ASKED, VIEW } from "./shared/options.js";
import { announceReady } from "./shared/ready.js";

const OPTIONS = { ...ASKED, ...VIEW };
const LONGEST = 512; // characters of an option: sentences are the longest, and models read few words of them
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
  if (!Object.hasOwn(OPTIONS, name)) return `there is no option “${name}”`;
  if (value === null) return "";
  const { kind, least, most } = OPTIONS[name];
  if (kind === "switch") return typeof value === "boolean" ? "" : `“${name}” is not true or false`;
  if (kind === "number") {
    const within = typeof value === "number" && value >= least && value <= most;
    return within ? "" : `“${name}” is not a number from ${least} to ${most}`;
  }
  const index = kind === "class" && Number.isInteger(value);
  const short = typeof value === "string" && value.length <= LONGEST;
  return index || short ? "" : `“${name}” is not a short text`;
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

for (const [name, { kind }] of Object.entries(OPTIONS)) {
  const given = parameters.get(name);
  if (kind === "switch") viewer.toggleAttribute(name, ["", "1", "true"].includes(given));
  else if (given) viewer.setAttribute(name, given);
}
if (parameters.get("src")) start(parameters.get("src"));
tell("ready");
announceReady();
