// The page: sends a picture to the API and lays the answer over it. There is no build step: this file is what runs.

const $ = (id) => document.getElementById(id);
const DEFAULT_WAIT_S = 2; // where Retry-After says nothing
const REASONS = {
  no_positive_evidence: "nothing in this layer speaks for the class",
  zero_gradient: "the class does not depend on this layer at all",
  constant: "every place has the same value",
};
const PATIENCE_MS = 400; // what is over sooner shows no progress
const AFTER_ANSWER = ["answer", "command", "opacity-row"]; // shown once there is an answer

const state = {
  models: [],
  methods: [],
  layers: null, // the catalogue of the chosen model
  file: null,
  sample: null, // the sample's name, where the picture is one
  undisplayable: false, // the browser cannot show this format: the server then sends the picture too
  target: "predicted",
  shown: null, // what the answer on screen was asked with
  choice: null, // the sample being fetched: one chosen later wins, whichever arrives first
};

let running = null; // the AbortController of the update in progress

// ---- Talking to the server

/** Ask the API; wait and ask again for as long as it says that it will be ready later. */
async function api(path, signal, form) {
  for (;;) {
    const sent = fetch(`api/v1/${path}`, { method: form ? "POST" : "GET", body: form, signal });
    const response = await sent.catch(unreachable);
    if (response.ok) return response.json();
    const problem = await response.json().catch(() => ({}));
    const detail = problem.detail ?? `The server answered ${response.status} ${response.statusText}.`;
    if (response.status !== 503 && response.status !== 429) throw new Error(detail);
    const wait = Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S;
    $("status").textContent = `${detail} Trying again every ${wait} s.`;
    await pause(wait * 1000, signal);
  }
}

function unreachable(error) {
  throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
}

/** Bring the screen up to date with what is chosen. Whatever was under way is given up. */
async function update() {
  running?.abort();
  const controller = new AbortController();
  running = controller;
  const over = showProgress(controller);
  try {
    if (!state.methods.length) await loadOptions(controller.signal);
    if (state.layers?.model !== $("model").value) await loadLayers(controller.signal);
    if (state.file) {
      $("status").textContent = "Explaining…";
      const asked = { path: `models/${encodeURIComponent($("model").value)}/explain`, options: options() };
      const answer = await api(asked.path, controller.signal, request());
      const [result] = answer.results;
      if (result.error) throw new Error(result.error.detail);
      state.shown = asked;
      showAnswer(answer, result);
    }
  } catch (error) {
    if (running === controller) showProblem(error);
  } finally {
    over();
    if (running === controller) running = null;
  }
}

async function loadOptions(signal) {
  const lists = ["models", "methods", "colormaps"].map((path) => api(path, signal));
  const [models, methods, colormaps] = await Promise.all(lists);
  showModels(models);
  fill($("colormap"), colormaps.colormaps.map(({ name }) => [name, name]), colormaps.default);
  Object.assign(state, { methods: methods.methods, defaultMethod: methods.default });
}

async function loadLayers(signal) {
  const model = $("model").value;
  const catalogue = await api(`models/${encodeURIComponent(model)}/layers?explainable=true`, signal);
  showModels(await api("models", signal));
  state.layers = catalogue;
  const rows = catalogue.layers.map((layer) => [layer.name, layerText(layer)]);
  fill($("layer"), [["default", `default (${catalogue.default})`], ...rows], "default");
  const able = state.models.find(({ name }) => name === model)?.methods ?? [];
  const methods = state.methods.filter(({ name }) => !able.length || able.includes(name));
  fill($("method"), methods.map(({ name, title }) => [name, title]), state.defaultMethod);
  showNotes();
}

/** The options on screen, as the API names them. */
function options() {
  return ["layer", "method", "colormap"].map((name) => [name, $(name).value]).concat([["target", state.target]]);
}

function request() {
  const form = new FormData();
  form.append("image", state.file, state.file.name);
  for (const [name, value] of options()) form.append(name, value);
  form.append("output", "heatmap");
  if (state.undisplayable) {
    form.append("output", "overlay");
    form.append("alpha", "0"); // the picture itself
  }
  return form;
}

// ---- Showing what came back

/** List what may be chosen, and keep the choice if it is still there. */
function fill(select, rows, standard) {
  const wanted = JSON.stringify(rows);
  if (select.dataset.rows === wanted) return; // left alone: the list may be open
  select.dataset.rows = wanted;
  const chosen = rows.some(([value]) => value === select.value) ? select.value : standard;
  select.replaceChildren(...rows.map(([value, text]) => new Option(text, value)));
  select.value = chosen;
}

function showModels({ models, default: standard }) {
  state.models = models;
  const rows = models.map(({ name, state }) => [name, state === "ready" ? name : `${name} (${state})`]);
  fill($("model"), rows, standard);
  showNotes();
}

function showNotes() {
  const words = (...parts) => parts.filter(Boolean).join(" · ");
  const model = state.models.find(({ name }) => name === $("model").value);
  const size = model?.input && `${model.input.width}×${model.input.height} px`;
  $("model-note").textContent = model?.reason ?? words(model?.architecture, size && `${model.classes} classes`, size);
  const name = $("layer").value === "default" ? state.layers?.default : $("layer").value;
  const layer = state.layers?.layers.find((layer) => layer.name === name);
  $("layer-note").textContent = layer ? words(layer.type, `${layer.shape[0]} channels`, layer.note) : "";
  $("method-note").textContent = state.methods.find((method) => method.name === $("method").value)?.summary ?? "";
}

function layerText({ name, shape, recommended }) {
  return `${name} · ${shape[2]}×${shape[1]}${recommended ? " ★ recommended" : ""}`;
}

function showAnswer({ model, timing }, { image, view, predictions, explanations: [explanation] }) {
  const { target, heatmap, overlay, empty } = explanation;
  $("stage").style.setProperty("--ratio", image.width / image.height);
  if (overlay) $("picture").src = source(overlay);
  $("heatmap").hidden = empty;
  if (!empty) $("heatmap").src = source(heatmap);
  showUnseen(view, image);
  const goal = `“${target.label}” (${percent(target.probability)})`;
  const said = empty
    ? `The map is empty: ${REASONS[explanation.reason]} (${goal}, layer ${explanation.layer}). Try another class or layer.`
    : `Where ${model.name} finds evidence for ${goal}, at layer ${explanation.layer}. Warm is much, cool is none.`;
  $("caption").textContent = [said, explanation.note].filter(Boolean).join(" ");
  $("heatmap").alt = `Heatmap for ${target.label}`;
  const focused = $("predictions").contains(document.activeElement);
  $("predictions").replaceChildren(...predictions.map((prediction) => predictionRow(prediction, target)));
  if (focused) $("predictions").querySelector("[aria-pressed=true]")?.focus();
  $("timing").textContent = `${timing.total_ms.toFixed(0)} ms, ${timing.compute_ms.toFixed(0)} ms of it in the model.`;
  for (const id of AFTER_ANSWER) $(id).hidden = false;
  showCurl();
}

const source = ({ media_type, data }) => `data:${media_type};base64,${data}`;
const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

function predictionRow({ index, label, probability }, target) {
  const button = make("button", { type: "button", ariaPressed: index === target.index });
  button.style.setProperty("--share", `${probability * 100}%`);
  button.append(make("span", {}, label), make("span", {}, percent(probability)));
  button.addEventListener("click", () => {
    state.target = String(index);
    mark($("predictions"), button);
    update();
  });
  return make("li", {}, button);
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function mark(list, chosen) {
  for (const button of list.querySelectorAll("button")) button.ariaPressed = button === chosen;
}

/** Hatch everything of the picture but the part that the model saw. */
function showUnseen(view, { width, height }) {
  const sides = view && [view.left / width, view.top / height, view.right / width, view.bottom / height];
  const whole = !view || (sides[0] < 0.002 && sides[1] < 0.002 && sides[2] > 0.998 && sides[3] > 0.998);
  $("unseen").hidden = $("unseen-note").hidden = whole;
  if (whole) return;
  const [left, top, right, bottom] = sides.map((side) => `${Math.min(Math.max(side, 0), 1) * 100}%`);
  $("unseen").style.clipPath =
    "polygon(evenodd, 0 0, 100% 0, 100% 100%, 0 100%, 0 0, " +
    `${left} ${top}, ${right} ${top}, ${right} ${bottom}, ${left} ${bottom}, ${left} ${top})`;
}

/** Show that something is under way, unless it is over in no time. Returns what ends it. */
function showProgress(controller) {
  const began = Date.now();
  $("problem").hidden = true;
  $("status").textContent = "Loading…";
  $("elapsed").textContent = "";
  document.body.classList.add("busy");
  const timer = setInterval(() => {
    $("progress").hidden = false;
    $("elapsed").textContent = `${Math.round((Date.now() - began) / 1000)} s`;
  }, PATIENCE_MS);
  return () => {
    clearInterval(timer);
    if (running !== controller) return; // another update has taken over
    $("progress").hidden = true;
    document.body.classList.remove("busy");
  };
}

function showProblem(error) {
  $("problem-text").textContent = error.name === "AbortError" ? "Cancelled." : error.message;
  $("problem").hidden = false;
  if (document.activeElement === $("cancel")) $("retry").focus(); // the button in focus is about to go
}

// ---- The same with curl

function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function showCurl() {
  const url = (path) => quoted(new URL(path, document.baseURI).href);
  const name = state.file.name;
  // curl itself reads , and ; in a file's name, unless the name is in double quotes
  const file = /[,;"\\]/.test(name) ? `"${name.replaceAll(/["\\]/g, "\\$&")}"` : name;
  const image = state.sample ? `image=@-;filename=${name}` : `image=@${file}`;
  const fields = [["output", "heatmap"], ["output", "overlay"], ["alpha", $("opacity").value / 100]];
  $("curl").textContent = [
    ...(state.sample ? [`curl -s ${url(`static/samples/${state.sample}`)} |`] : []),
    `curl ${url(`api/v1/${state.shown.path}`)}`,
    `  -F ${quoted(image)}`,
    ...[...state.shown.options, ...fields].map(([key, value]) => `  -F ${quoted(`${key}=${value}`)}`),
  ].join(" \\\n").replaceAll("| \\\n", "|\n");
  $("copied").textContent = "";
}

async function copyCurl() {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    $("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren($("curl")); // without a secure context there is no clipboard
    $("copied").textContent = "Selected: copy it with your keyboard.";
  }
}

// ---- What a person does

function usePicture(file, sample = null) {
  URL.revokeObjectURL($("picture").src);
  Object.assign(state, { file, sample, target: "predicted", undisplayable: false, shown: null, choice: null });
  $("picture").src = URL.createObjectURL(file);
  $("picture").alt = file.name;
  for (const id of ["heatmap", "unseen", "unseen-note", ...AFTER_ANSWER]) $(id).hidden = true;
  $("caption").textContent = file.name;
  mark($("samples"), $(`sample-${sample}`));
  update();
}

async function showSamples() {
  const response = await fetch("static/samples.json").catch(() => null);
  for (const { name, title } of response?.ok ? await response.json() : []) {
    const thumbnail = make("img", { src: `static/samples/${name}`, alt: title });
    const button = make("button", { type: "button", title, id: `sample-${name}` }, thumbnail);
    button.addEventListener("click", async () => {
      const choice = (state.choice = {});
      const data = await fetch(thumbnail.src).then((found) => found.blob(), unreachable).catch(showProblem);
      if (data && state.choice === choice) usePicture(new File([data], name, { type: data.type }), name);
    });
    $("samples").append(make("li", {}, button));
  }
}

const useFirstOf = (files) => files.length && usePicture(files[0]);

$("file").addEventListener("change", () => useFirstOf($("file").files));
$("file").addEventListener("click", () => ($("file").value = "")); // so that the same file can be chosen again
$("stage").addEventListener("click", () => $("stage").classList.contains("vacant") && $("file").click());
document.addEventListener("paste", (event) => useFirstOf(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragging", kind === "dragover");
    if (kind === "drop") useFirstOf(event.dataTransfer.files);
  });
}

function showPicture(visible) {
  $("picture").hidden = !visible;
  $("hint").hidden = visible;
  $("stage").classList.toggle("vacant", !visible);
}
$("picture").addEventListener("load", () => {
  $("stage").style.setProperty("--ratio", $("picture").naturalWidth / $("picture").naturalHeight);
  showPicture(true);
});
$("picture").addEventListener("error", () => {
  showPicture(false);
  if (state.undisplayable) return;
  state.undisplayable = true;
  update();
});

function showOpacity() {
  $("heatmap").style.opacity = $("opacity").value / 100;
  $("opacity-value").textContent = `${$("opacity").value}%`;
}
$("opacity").addEventListener("input", () => {
  showOpacity();
  showCurl();
});

for (const id of ["model", "layer", "method", "colormap"]) {
  $(id).addEventListener("change", () => {
    if (id === "model") state.target = "predicted"; // class 3 of another model is something else
    showNotes();
    update();
  });
}
$("cancel").addEventListener("click", () => running?.abort());
$("retry").addEventListener("click", update);
$("copy").addEventListener("click", copyCurl);

setInterval(async () => {
  if (!state.models.some((model) => model.state === "loading")) return;
  const response = await fetch("api/v1/models").catch(() => null);
  if (response?.ok) showModels(await response.json());
}, 2000);

showPicture(false);
showOpacity();
showSamples();
update();
