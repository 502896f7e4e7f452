// Several pictures at once, right ones beside wrong ones: that is how people find shortcuts.

import { dataUrl } from "../shared/base64.js";
import { make } from "../shared/elements.js";
import { percent, plural, twoDecimals } from "../shared/numbers.js";
import { explainAll } from "./batches.js";
import { labelsOf, load, offered } from "./catalogue.js";
import { $, refill } from "./dom.js";
import { howRead, reader } from "./expected.js";
import { ofOne, read } from "./layers.js";
import { find } from "./pictures.js";
import { colormap, DEFAULTS, modelName, variant } from "./questions.js";
import { save } from "./save.js";
import { change, state } from "./state.js";
import { csv, record } from "./table.js";
import { Task } from "./task.js";

const SIDE = 200; // px of a thumbnail; the screen's density counts, too

let task;
let tell;
let items = []; // {picture, element, expected, result, error}
let wanted = ""; // what the results were asked with
let sampleNames; // a promise

/** The question of the pictures that are listed and have an answer, or null. */
export function asked() {
  const pictures = listed().filter(({ result }) => result).map(({ picture }) => picture);
  return pictures.length ? { pictures, model: modelName(), options: question() } : null;
}

/** The pictures of the gallery, read from the server where they are its samples. */
export async function gathered({ signal }) {
  await takeWhatIsAsked(signal);
  return items.map(({ picture }) => picture);
}

/** Called once; `answered()` is called after every answer, `samples` promises the names of the samples. */
export function control(answered, samples) {
  tell = answered;
  task = new Task($("gallery-problems"), $("gallery-problems"), update, { defaults: DEFAULTS });
  sampleNames = samples;
  $("gallery-samples").addEventListener("click", () => change({ samples: true, tab: "gallery" }));
  $("sort").addEventListener("change", () => change({ sort: $("sort").value }, { replace: true }));
  $("show").addEventListener("change", () => change({ show: $("show").value }, { replace: true }));
  $("save-csv").addEventListener("click", () => save(csv(listed()), "camserve.csv", "text/csv"));
  $("save-records").addEventListener("click", () => {
    save(JSON.stringify(listed().map(record), null, 1), "camserve.json", "application/json");
  });
}

/** Show these pictures instead of those before; `others` files among them were none. */
export function fill(pictures, others = 0) {
  items = pictures.map((picture) => ({ picture }));
  for (const item of items) {
    item.element = make("li", {});
    draw(item);
  }
  wanted = "";
  $("left-out").textContent = others ? `${plural(others, "file")} that ${others === 1 ? "is" : "are"} no picture left out.` : "";
}

/** Explain what is not explained yet, as the state says. */
export async function update() {
  await task.run("Explaining…", async ({ signal, say }) => {
    await takeWhatIsAsked(signal);
    $("gallery-vacant").hidden = items.length > 0;
    $("gallery-bar").hidden = !items.length;
    if (!items.length) return;
    await load({ say });
    if (state.fuse) await read({ say });
    forgetOtherQuestions();
    const expectedIn = reader(await labelsOf(state, { say }));
    signal.throwIfAborted();
    for (const item of items) item.expected = expectedIn(item.picture.path);
    $("how-read").textContent = howRead(items.map(({ expected }) => expected));
    arrange();
    const open = items.filter(({ result, error }) => !result && !error);
    await explainAll(open, { model: modelName(), options: question(), signal, say, done: arrange });
  });
  arrange();
}

async function takeWhatIsAsked(signal) {
  if (state.samples && !(items.length && items.every(({ picture }) => picture.sample))) await takeSamples(signal);
}

async function takeSamples(signal) {
  const pictures = await Promise.all((await sampleNames).map((name) => find(`sample:${name}`)));
  signal.throwIfAborted(); // others have been chosen meanwhile
  fill(pictures);
}

function forgetOtherQuestions() {
  const now = JSON.stringify([modelName(), question()]);
  if (wanted !== now) for (const item of items) Object.assign(item, { result: null, error: null });
  wanted = now;
}

function question() {
  return [
    ...ofOne(),
    ["scores", "true"],
    ["method", state.method || offered.method],
    ...variant(),
    ["output", "overlay"], ["colormap", colormap()], ["alpha", String(state.opacity)],
    ["max_side", String(Math.round(SIDE * Math.min(devicePixelRatio, 2)))],
  ];
}

/** `right` or `wrong` where a class was expected, `failed`, or nothing. */
function verdict({ result, error, expected }) {
  if (error) return "failed";
  if (!result || !expected) return "";
  return result.predictions[0].label === expected.label ? "right" : "wrong";
}

/** Smallest first, or with a sign of -1 largest; what has no such number comes last. */
function by(number, sign = 1) {
  const place = ({ result }) => sign * ((result && number(result)) ?? sign * Infinity);
  return (one, other) => place(one) - place(other) || 0; // Infinity less Infinity is no number
}
const ORDERS = {
  added: () => 0,
  surest: by(({ predictions }) => predictions[0].probability, -1),
  least: by(({ predictions }) => predictions[0].probability),
  entropy: by(({ scores }) => scores?.entropy, -1),
  margin: by(({ scores }) => scores?.margin),
  name: (one, other) => one.picture.path.localeCompare(other.picture.path, undefined, { numeric: true }),
};

const listed = () => items.filter((item) => state.show === "all" || verdict(item) === state.show).sort(ORDERS[state.sort]);

/** Draw what has come in, in the order and with the filter in force. */
export function arrange() {
  for (const item of items) if ((item.result || item.error) && item.drawn !== (item.result ?? item.error)) draw(item);
  const some = listed();
  refill($("gallery"), some.map(({ element }) => element));
  const count = (kind) => items.filter((item) => verdict(item) === kind).length;
  const done = items.filter(({ result, error }) => result || error).length;
  const names = { all: ["All", items.length], wrong: ["Predicted ≠ expected", count("wrong")],
    right: ["Predicted = expected", count("right")], failed: ["Failed", count("failed")] };
  for (const option of $("show").options) option.textContent = names[option.value].join(" · ");
  $("show").value = state.show;
  $("sort").value = state.sort;
  $("gallery").dataset.sort = state.sort;
  $("gallery-progress").max = items.length || 1;
  $("gallery-progress").value = done;
  $("gallery-progress").hidden = done === items.length;
  $("gallery-count").textContent = done < items.length
    ? `${done} of ${plural(items.length, "picture")}`
    : [plural(items.length, "picture"), count("wrong") && `${count("wrong")} not as expected`, count("failed") && `${count("failed")} failed`]
      .filter(Boolean).join(", ");
  tell();
  $("nothing-listed").hidden = some.length > 0 || !items.length;
}

function draw(item) {
  const { picture, result, error } = item;
  item.drawn = result ?? error;
  const name = make("span", { className: "note", title: picture.path }, picture.file.name);
  if (error) {
    item.element.className = "thumb failed";
    item.element.replaceChildren(make("p", { className: "error" }, error), name);
    return;
  }
  item.element.className = `thumb ${verdict(item)}`;
  item.element.replaceChildren(button(item, name));
}

function button({ picture, result, expected }, name) {
  const waiting = () => {
    const image = make("img", { src: URL.createObjectURL(picture.file), alt: "", loading: "lazy" });
    image.onload = () => URL.revokeObjectURL(image.src);
    image.onerror = () => (image.hidden = true); // a format that browsers do not show
    return image;
  };
  const words = result ? verdictWords(result, expected) : [make("span", { className: "note" }, "waiting…")];
  const image = result ? make("img", { src: dataUrl(result.explanations[0].overlay), alt: "" }) : waiting();
  const frame = make("span", { className: "frame" }, image);
  const made = make("button", { type: "button", onclick: () => enlarge(picture) }, frame, ...words, name);
  made.dataset.key = picture.id;
  return made;
}

function verdictWords({ predictions: [best], scores }, expected) {
  const found = !expected ? "" : expected.label === best.label ? "✓ as expected" : `✗ expected ${expected.label}`;
  const sure = make("span", {}, percent(best.probability));
  return [make("span", { className: "best" }, best.label), make("span", { className: "verdict" }, sure, ...scoreWords(scores), found)];
}

/** Shown where pictures are sorted by it. */
const scoreWords = (scores) =>
  Object.entries(scores ?? {}).filter(([, value]) => value !== null).map(([name, value]) => make("span", { className: name }, `${name} ${twoDecimals(value)}`));

function enlarge(picture) {
  change({ tab: "explain", picture: picture.id, sample: picture.sample, target: "", against: "" });
}
