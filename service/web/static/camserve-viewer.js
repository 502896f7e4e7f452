// <camserve-viewer>: a picture, and where a model looked. One file, nothing imported, no build step.
//
// On a page that talks to the API itself: set `picture` (Blob or URL), `explained` ({image, view, explanation} as in an
// answer with output=mask) and `palette` (`table` of GET /api/v1/colormaps; a diverging one for a signed map).
// On any other page: set the attribute `src`, or call `explain(blob)`, and it asks the server that this file came from, or
// `server`, with the attributes model, head, layer, target, against, method, colormap, signed. `key` is a property only: what
// stands in a page's source is no secret.
// How it is drawn: mode, opacity, threshold, regions; properties and attributes. Every one of them acts without a request.
// Events: camserve-hover {x, y, share, value, seen}, camserve-explained {answer, result, explanation},
// camserve-error {code, message}. `toBlob()` resolves to the present view as PNG, at the picture's own resolution.
// Theming: it takes its host's text colour and font; parts: stage, scale, readout, legend, caption, problem; and the
// custom properties --camserve-max-height and --camserve-accent.

const MODES = ["overlay", "heatmap", "original", "side", "swipe"];
const LOOKS = ["mode", "opacity", "threshold", "regions"];
const QUESTION = ["model", "head", "layer", "target", "against", "method", "colormap", "signed"];
const REASONS = {
  no_positive_evidence: "nothing in this layer speaks for the class",
  zero_gradient: "the class does not depend on this layer at all",
  constant: "every place has the same value",
};
const HOME = new URL("..", import.meta.url).href; // the server that this file came from, with its path if it has one
const DEBOUNCE_MS = 150; // a page that sets five attributes asks once
const TIMEOUT_MS = 120_000;
const MAX_TRIES = 8;
const MAX_WAIT_S = 30;
const DEFAULT_WAIT_S = 2; // where Retry-After says nothing
const PANEL = 0.495; // of the stage, for each of two panels side by side; the rest is the gap between them
const NARROW_PX = 480; // below it, landscape pictures are put one above the other
const OUTLINED_SIDE = 160; // samples along the longer side where outlines are searched: as many as the server takes
const EXPORTED_AS_PX = 800; // lines of an exported picture are as wide as on a screen of this width
const OUTLINED_SHARE = 0.5; // regions, where no threshold is set: the API's own default

// ---- Numbers

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
/** An attribute or property that lies in 0 to 1. */
const shareOf = (value, standard) => (value === null || Number.isNaN(Number(value)) ? standard : clamp(Number(value), 0, 1));
const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);
/** Three digits, without a row of zeros before them. */
const number = (value) => {
  const tiny = value !== 0 && Math.abs(value) < 0.0001;
  return (tiny ? value.toExponential(2) : String(Number(value.toPrecision(3)))).replaceAll("-", "−");
};
const fixed = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");

class Problem extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

function fromBase64(text) {
  const decoded = atob(text);
  const bytes = new Uint8Array(decoded.length); // filled by a plain loop: with `from` it takes longer than all the rest
  for (let index = 0; index < bytes.length; index++) bytes[index] = decoded.charCodeAt(index);
  return bytes;
}

/** The bytes of a picture in an answer, as a bitmap. */
function decode({ media_type, data }) {
  return createImageBitmap(new Blob([fromBase64(data)], { type: media_type }));
}

/** A picture that a page has set, as something that can be drawn, upright. */
async function bitmapOf(picture) {
  if (picture instanceof Blob) return createImageBitmap(picture);
  // An <img>, not a request: content security policies that show a picture's address often forbid to fetch it.
  const element = Object.assign(new Image(), { crossOrigin: "anonymous", src: picture });
  await element.decode();
  return createImageBitmap(element);
}

async function unpacked(explained) {
  const { mask } = explained.explanation;
  if (!mask) throw new Problem("no_mask", "This explanation has no mask: ask for output=mask.");
  const bitmap = await decode(mask).catch(() => null);
  if (!bitmap) throw new Problem("invalid_mask", "The heatmap cannot be read: what came is not a picture.");
  return new SaliencyMap(bitmap, explained);
}

function canvas(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** A mask, unpacked once, so that a repaint is one look-up per pixel. Only what the model saw is kept. */
class SaliencyMap {
  constructor(bitmap, { image, view, explanation }) {
    const whole = { left: 0, top: 0, right: image.width, bottom: image.height };
    Object.assign(this, { image, explanation, view: view ?? whole, signed: Boolean(explanation.signed) });
    this.steps = { x: bitmap.width / image.width, y: bitmap.height / image.height }; // mask pixels per picture pixel
    this.seen = this.#seenPixels(bitmap);
    const { left, top, width, height } = this.seen;
    const surface = canvas(bitmap.width, bitmap.height).getContext("2d", { willReadFrequently: true });
    surface.drawImage(bitmap, 0, 0);
    this.pixels = surface.getImageData(left, top, width, height); // painted over from now on: spares one allocation
    this.levels = new Uint8Array(width * height);
    const { data } = this.pixels; // red, green, blue, opacity; of grey, the first three are the same
    for (let index = 0; index < this.levels.length; index++) this.levels[index] = data[4 * index];
    this.heat = canvas(width, height); // what `paint` draws
    this.shares = Array.from({ length: 256 }, (_, level) => this.#share(level));
    const { minimum, maximum } = explanation;
    this.greatest = this.signed ? Math.max(Math.abs(minimum ?? 0), Math.abs(maximum)) : Math.max(maximum, 0);
  }

  /** Whether more than rounding was cut off. */
  get hasUnseen() {
    const { left, top, right, bottom } = this.view;
    const { width, height } = this.image;
    return Math.max(left / width, top / height, 1 - right / width, 1 - bottom / height) > 0.002;
  }

  /** The mask's pixels whose centres lie in the view: the same ones that the server drew. */
  #seenPixels({ width, height }) {
    const first = (edge, step, size) => clamp(Math.ceil(edge * step - 0.5), 0, size);
    const left = Math.min(first(this.view.left, this.steps.x, width), width - 1);
    const top = Math.min(first(this.view.top, this.steps.y, height), height - 1);
    const right = Math.max(first(this.view.right, this.steps.x, width), left + 1);
    const bottom = Math.max(first(this.view.bottom, this.steps.y, height), top + 1);
    return { left, top, width: right - left, height: bottom - top };
  }

  /** A level as a share of the greatest value. Of a signed map, 128 is zero. */
  #share(level) {
    if (!this.signed) return level / 255;
    return level < 128 ? (level - 128) / 128 : (level - 128) / 127;
  }

  /** What stands at a pixel of the picture. */
  at(x, y) {
    const { left, top, right, bottom } = this.view;
    const [across, down] = [x + 0.5, y + 0.5];
    if (across < left || across > right || down < top || down > bottom) return { share: null, value: null, seen: false };
    const column = clamp(Math.floor(across * this.steps.x) - this.seen.left, 0, this.seen.width - 1);
    const row = clamp(Math.floor(down * this.steps.y) - this.seen.top, 0, this.seen.height - 1);
    const share = this.shares[this.levels[row * this.seen.width + column]];
    return { share, value: share * this.greatest, seen: true };
  }

  /** The colour of every level, RGBA in 32 bits; transparent below the threshold. */
  colours(palette, threshold) {
    const bytes = new Uint8Array(1024);
    this.shares.forEach((share, level) => {
      if (Math.abs(share) < threshold) return;
      bytes.set(palette.subarray(3 * level, 3 * level + 3), 4 * level);
      bytes[4 * level + 3] = 255;
    });
    return new Uint32Array(bytes.buffer);
  }

  paint(palette, threshold) {
    const table = this.colours(palette, threshold);
    const painted = new Uint32Array(this.pixels.data.buffer);
    const { levels } = this;
    for (let index = 0; index < levels.length; index++) painted[index] = table[levels[index]];
    this.heat.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  /** Magnitudes on a grid coarse enough to be searched in every frame; a border of nothing around it closes outlines. */
  get coarse() {
    const { width, height } = this.seen;
    const step = Math.max(1, Math.ceil(Math.max(width, height) / OUTLINED_SIDE));
    const [xs, ys] = [width, height].map((size) => samples(size, step));
    const values = new Float32Array(xs.length * ys.length);
    for (let row = 1; row < ys.length - 1; row++) {
      for (let column = 1; column < xs.length - 1; column++) {
        const level = this.levels[Math.floor(ys[row]) * width + Math.floor(xs[column])];
        values[row * xs.length + column] = Math.abs(this.shares[level]);
      }
    }
    Object.defineProperty(this, "coarse", { value: { values, xs, ys } }); // found once, when it is first wanted
    return this.coarse;
  }

  /** Where the map crosses `level`, as lines in mask pixels of the seen part: marching squares. */
  outline(level) {
    const { values, xs, ys } = this.coarse;
    const path = new Path2D();
    for (let row = 0; row + 1 < ys.length; row++) {
      for (let column = 0; column + 1 < xs.length; column++) {
        const index = row * xs.length + column;
        const a = values[index], b = values[index + 1];
        const d = values[index + xs.length], c = values[index + xs.length + 1];
        const inside = (a >= level) + (b >= level) + (c >= level) + (d >= level);
        if (inside === 0 || inside === 4) continue; // nearly all of them: everything below is rare
        const points = crossings([a, b, c, d], level, [xs[column], xs[column + 1]], [ys[row], ys[row + 1]]);
        points.forEach((point, at) => (at % 2 ? path.lineTo(...point) : path.moveTo(...point)));
      }
    }
    return path;
  }
}

/** Every `step`-th pixel's centre, and both edges. */
function samples(size, step) {
  const centres = Array.from({ length: Math.ceil(size / step) }, (_, index) => Math.min((index + 0.5) * step, size - 0.5));
  return Float32Array.of(0, ...centres, size);
}

/** Where the edges of a cell with the corners a b c d, clockwise from the top left, are crossed: two points, or four. */
function crossings([a, b, c, d], level, [left, right], [top, bottom]) {
  const between = (from, to, low, high) => low + ((high - low) * (level - from)) / (to - from);
  const points = []; // around the cell: of a saddle, the first two make one line, the other two another
  if (a >= level !== b >= level) points.push([between(a, b, left, right), top]);
  if (b >= level !== c >= level) points.push([right, between(b, c, top, bottom)]);
  if (d >= level !== c >= level) points.push([between(d, c, left, right), bottom]);
  if (a >= level !== d >= level) points.push([left, between(a, d, top, bottom)]);
  return points;
}

/** Colours for whoever sets no palette: black, red, yellow, white; of a signed map blue, white, red. */
function plainPalette(signed) {
  const ramp = (value) => Math.round(255 * clamp(value, 0, 1));
  const hot = (share) => [ramp(3 * share), ramp(3 * share - 1), ramp(3 * share - 2)];
  const coldOrHot = (share) => [ramp(2 * share), ramp(1 - Math.abs(2 * share - 1)), ramp(2 - 2 * share)];
  return Uint8ClampedArray.from(Array.from({ length: 256 }, (_, level) => (signed ? coldOrHot : hot)(level / 255)).flat());
}

// ---- Drawing, at any size: on the screen, and for export

/** Where the panels of a mode lie, in shares of the whole; and the whole's width over its height. */
function layout(mode, ratio, stacked, divider) {
  const whole = { x: 0, y: 0, width: 1, height: 1, from: 0, to: 1 };
  if (mode === "swipe") {
    return { ratio, panels: [{ ...whole, kind: "overlay", from: divider }, { ...whole, kind: "original", to: divider }] };
  }
  if (mode !== "side") return { ratio, panels: [{ ...whole, kind: mode }] };
  const size = stacked ? { height: PANEL } : { width: PANEL };
  const place = stacked ? { y: 1 - PANEL } : { x: 1 - PANEL };
  const panels = [{ ...whole, ...size, kind: "original" }, { ...whole, ...size, ...place, kind: "overlay" }];
  return { ratio: stacked ? ratio * PANEL : ratio / PANEL, panels };
}

/** Draw all panels. `unit` is how many pixels one line is wide. */
function draw(context, scene, unit) {
  const { width, height } = context.canvas;
  context.clearRect(0, 0, width, height);
  for (const { x, y, width: across, height: down, from, to, kind } of scene.panels) {
    const box = { x: x * width, y: y * height, width: across * width, height: down * height };
    context.save();
    context.beginPath();
    context.rect(box.x + from * box.width, box.y, (to - from) * box.width, box.height);
    context.clip();
    drawPanel(context, box, kind, scene, unit);
    context.restore();
  }
  const divided = scene.panels.find(({ from }) => from > 0);
  if (divided) drawLines(context, [[divided.from * width, 0, divided.from * width, height]], unit);
}

function drawPanel(context, box, kind, { picture, map, outline, opacity, cross }, unit) {
  if (kind !== "heatmap" && picture) context.drawImage(picture, box.x, box.y, box.width, box.height);
  if (kind !== "original" && map) {
    const mask = { x: box.width / map.image.width / map.steps.x, y: box.height / map.image.height / map.steps.y };
    const { left, top, width, height } = map.seen;
    const seen = { x: box.x + left * mask.x, y: box.y + top * mask.y, width: width * mask.x, height: height * mask.y };
    context.globalAlpha = kind === "heatmap" ? 1 : opacity;
    if (!map.explanation.empty) context.drawImage(map.heat, seen.x, seen.y, seen.width, seen.height);
    context.globalAlpha = 1;
    if (map.hasUnseen) drawUnseen(context, box, seen, unit);
    if (outline) drawOutline(context, outline, new DOMMatrix([mask.x, 0, 0, mask.y, seen.x, seen.y]), unit);
  }
  if (!cross) return;
  const [x, y] = [box.x + cross.across * box.width, box.y + cross.down * box.height];
  const [near, far] = [3 * unit, 11 * unit]; // a gap in the middle: what is read stays visible
  const arms = [[x - far, y, x - near, y], [x + near, y, x + far, y], [x, y - far, x, y - near], [x, y + near, x, y + far]];
  drawLines(context, arms, unit);
}

/** Hatch everything of the box but the part that the model saw. */
function drawUnseen(context, box, seen, unit) {
  context.save();
  context.beginPath();
  context.rect(box.x, box.y, box.width, box.height);
  context.rect(seen.x, seen.y, seen.width, seen.height);
  context.clip("evenodd");
  context.fillStyle = "rgb(0 0 0 / 62%)";
  context.fillRect(box.x, box.y, box.width, box.height);
  context.beginPath();
  for (let x = box.x - box.height; x < box.x + box.width; x += 9 * unit) {
    context.moveTo(x, box.y + box.height);
    context.lineTo(x + box.height, box.y);
  }
  context.strokeStyle = "rgb(255 255 255 / 32%)";
  context.lineWidth = unit;
  context.stroke();
  context.restore();
}

function drawOutline(context, outline, matrix, unit) {
  const path = new Path2D();
  path.addPath(outline, matrix);
  stroke(context, path, unit);
}

function drawLines(context, lines, unit) {
  const path = new Path2D();
  for (const [x0, y0, x1, y1] of lines) {
    path.moveTo(x0, y0);
    path.lineTo(x1, y1);
  }
  stroke(context, path, unit);
}

/** White on black: to be seen on any picture and any colormap. */
function stroke(context, path, unit) {
  context.lineCap = "round";
  for (const [style, width] of [["rgb(0 0 0 / 75%)", 4], ["white", 2]]) {
    context.strokeStyle = style;
    context.lineWidth = width * unit;
    context.stroke(path);
  }
}

// ---- Asking a server

/** Ask, and ask again as long as the server says that it will be ready later: a bounded number of times. */
async function ask(url, { form, key, signal, onWait }) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  for (let tries = 1; ; tries++) {
    const patience = AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]);
    const options = { method: form ? "POST" : "GET", body: form, headers, credentials: "omit", signal: patience };
    const response = await fetch(url, options).catch((error) => unreachable(error, url));
    if (response.ok) return response.json();
    const problem = await response.json().catch(() => ({}));
    const detail = problem.detail ?? `The server answered ${response.status} ${response.statusText}.`;
    if (![429, 503].includes(response.status) || tries === MAX_TRIES) throw refusal(response.status, problem.code, detail);
    const wait = clamp(Number(response.headers.get("Retry-After")) || DEFAULT_WAIT_S, 1, MAX_WAIT_S);
    onWait(`${detail} Trying again in ${wait} s.`);
    await pause(wait * 1000, signal);
  }
}

function refusal(status, code = `http_${status}`, detail = "") {
  if (status === 401) return new Problem(code, `${detail} The page around this must set the key.`.trim());
  return new Problem(code, detail);
}

function unreachable(error, url) {
  if (error.name === "AbortError") throw error;
  if (error.name === "TimeoutError") throw new Problem("timeout", `No answer within ${TIMEOUT_MS / 1000} s.`);
  const { host } = new URL(url, document.baseURI);
  throw new Problem("unreachable", `${host || "The address"} cannot be reached, or does not allow this page to ask it.`);
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

async function load(url, signal) {
  const response = await fetch(url, { signal }).catch((error) => unreachable(error, url));
  if (!response.ok) throw new Problem("no_picture", `The picture cannot be loaded: ${response.status} ${response.statusText}.`);
  return response.blob();
}

const colormapsOf = new Map(); // by server: asked for once by all viewers of a page

/** The colours of a colormap: of the one that is named, or else of the server's default, or of one that has a middle. */
async function paletteOf(server, name, signed, asking) {
  if (!colormapsOf.has(server)) colormapsOf.set(server, await ask(`${server}api/v1/colormaps`, asking));
  const { colormaps, default: standard } = colormapsOf.get(server);
  const fitting = colormaps.filter(({ kind }) => kind === "diverging" || !signed);
  const found = fitting.find((each) => each.name === (name ?? (signed ? fitting[0].name : standard)));
  const names = fitting.map((each) => each.name).join(", ");
  if (!found) throw new Problem("unknown_colormap", `“${name}” is no colormap for this; choose one of: ${names}.`);
  return found.table;
}

// ---- In words

const UNDISPLAYABLE = "This browser cannot show this picture's format.";

const emptyWords = ({ reason }) => `The map is empty: ${REASONS[reason] ?? "it shows nothing"}.`;

const classWords = ({ label, probability }) => `“${label}” (${percent(probability)})`;

function goalWords({ target, against }) {
  return classWords(target) + (against ? ` rather than ${classWords(against)}` : "");
}

function mapWords({ explanation, hasUnseen }) {
  const { layer, peak, empty } = explanation;
  const strongest = peak && !empty ? `, strongest at (${Math.floor(peak.x)}, ${Math.floor(peak.y)})` : "";
  return `Heatmap for ${goalWords(explanation)} at layer ${layer}${strongest}${hasUnseen ? ". Part of the picture was not seen" : ""}`;
}

function captionOf(model, explanation) {
  const { layer, empty, note } = explanation;
  const said = `${empty ? "No evidence is shown" : `Where ${model} finds evidence`} for ${goalWords(explanation)}, at layer ${layer}.`;
  return [said, note].filter(Boolean).join(" ");
}

// ---- The element

const STYLE = `
  :host { display: block; color: inherit; line-height: 1.4; --accent: var(--camserve-accent, currentColor); }
  :host([hidden]), [hidden] { display: none !important; }
  * { box-sizing: border-box; margin: 0; }
  #stage {
    --ratio: 1.5; position: relative; aspect-ratio: var(--ratio); margin: 0 auto; overflow: clip; border-radius: .4rem;
    width: min(100%, var(--camserve-max-height, 70vh) * var(--ratio));
    background: color-mix(in srgb, currentColor 10%, transparent);
  }
  canvas { display: block; width: 100%; height: 100%; }
  #view { touch-action: pan-y pinch-zoom; cursor: crosshair; border-radius: inherit; }
  :focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
  #view:focus-visible { outline-offset: -3px; }
  #divider {
    --thumb: 2.5rem; position: absolute; top: 50%; left: calc(var(--thumb) / -2); width: calc(100% + var(--thumb));
    height: var(--thumb); transform: translateY(-50%); appearance: none; background: none; pointer-events: none;
  }
  #divider::-webkit-slider-runnable-track { height: var(--thumb); background: none; }
  #divider::-moz-range-track { background: none; }
  #divider::-webkit-slider-thumb { appearance: none; THUMB }
  #divider::-moz-range-thumb { THUMB }
  #divider:focus-visible { outline: none; }
  #divider:focus-visible::-webkit-slider-thumb { outline: 3px solid white; outline-offset: 2px; }
  #divider:focus-visible::-moz-range-thumb { outline: 3px solid white; outline-offset: 2px; }
  #words, #progress { position: absolute; inset: auto 0 0; padding: .6rem .8rem; background: rgb(0 0 0 / 82%); color: white; }
  #progress { display: flex; gap: .8rem; align-items: center; justify-content: space-between; }
  button { flex: none; font: inherit; padding: .3rem .8rem; cursor: pointer; }
  #scale { display: grid; grid-template-columns: auto minmax(4rem, 1fr) auto; gap: .1rem .5rem; align-items: center; }
  #scale, #readout, #legend { margin-top: .5rem; font-size: .875em; font-variant-numeric: tabular-nums; }
  #bar { height: .8em; border-radius: .2em; border: 1px solid color-mix(in srgb, currentColor 40%, transparent); }
  #zero { grid-column: 2; justify-self: center; line-height: 1; }
  #readout { min-height: 1.4em; }
  #legend { display: flex; gap: .5rem; align-items: center; }
  #legend span {
    flex: none; width: 1.6rem; height: 1.1rem; border-radius: .2rem;
    border: 1px solid color-mix(in srgb, currentColor 40%, transparent);
    background: repeating-linear-gradient(-45deg, rgb(255 255 255 / 32%) 0 1px, transparent 1px 6px) rgb(0 0 0 / 62%);
  }
  #problem { display: flex; flex-wrap: wrap; gap: .4rem .8rem; align-items: center; margin-top: .5rem; padding: .6rem .8rem; border: 2px solid; }
  #problem, #caption, #words { overflow-wrap: anywhere; }
  #caption { margin-top: .5rem; }
`.replaceAll(
  "THUMB",
  `pointer-events: auto; width: var(--thumb); height: var(--thumb); border: 2px solid #111; border-radius: 50%; cursor: ew-resize;
   background: linear-gradient(90deg, transparent 35%, #111 35% 41%, transparent 41% 59%, #111 59% 65%, transparent 65%) white;`,
);

const CONTENT = `
  <figure>
    <div id="stage" part="stage" hidden>
      <canvas id="view" role="img" tabindex="0" aria-describedby="how"></canvas>
      <input id="divider" type="range" min="0" max="100" step="1" value="50" aria-label="Divider: picture left, heatmap right" hidden>
      <p id="words" role="status" hidden></p>
      <div id="progress" hidden><span id="status" role="status"></span><button type="button" id="cancel">Cancel</button></div>
    </div>
    <p id="how" hidden>Arrow keys move a cross-hair that reads the map.</p>
    <div id="scale" part="scale" hidden>
      <span id="low"></span><canvas id="bar" width="256" height="1" role="img"></canvas><span id="high"></span><span id="zero">0</span>
    </div>
    <p id="legend" part="legend" hidden><span></span>Hatched: not seen by the model, which gets the rest of the picture only.</p>
    <output id="readout" part="readout" hidden></output>
    <figcaption id="caption" part="caption" hidden></figcaption>
    <div id="problem" part="problem" hidden><p id="problem-text" role="alert"></p><button type="button" id="retry">Try again</button></div>
  </figure>
`;

const sheet = new CSSStyleSheet(); // unlike a <style>, it needs no exception in a content security policy
sheet.replaceSync(STYLE);

export class CamserveViewer extends HTMLElement {
  static observedAttributes = ["src", "server", ...QUESTION, ...LOOKS];

  #part = {}; // the elements of the shadow tree, by id
  #look = { mode: "overlay", opacity: 0.55, threshold: 0, regions: false };
  #picture = null; // as it was set
  #shown = null; // what can be drawn of it
  #undisplayable = false;
  #explained = null;
  #map = null;
  #palette = null;
  #outline = null;
  #opened = null; // settles when the picture is decoded, or is found not to be one
  #mapped = null; // settles when the mask is unpacked
  #small = {}; // the picture, reduced to what the screen shows
  #cross = null; // the place that is read, in pixels of the picture
  #stale = false; // whether palette, threshold or map have changed since the heat was painted
  #frame = 0;
  #source = null; // what `explain` was called with last
  #loaded = {}; // what was loaded from `src`
  #running = null; // the AbortController of the question in progress
  #timer = 0;
  #key = null;
  #sizes = new ResizeObserver(() => this.#repaint());

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.innerHTML = CONTENT;
    for (const element of root.querySelectorAll("[id]")) this.#part[element.id] = element;
    this.#listen();
  }

  connectedCallback() {
    for (const name of ["picture", "explained", "palette", "key", ...LOOKS]) {
      if (!Object.hasOwn(this, name)) continue; // set before this module was loaded
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this.#sizes.observe(this);
    if (!this.#explained) this.#askSoon();
  }

  disconnectedCallback() {
    this.#sizes.disconnect();
    this.#running?.abort();
    clearTimeout(this.#timer);
  }

  attributeChangedCallback(name, before, value) {
    if (before === value) return;
    if (name === "regions") this.regions = value !== null;
    else if (LOOKS.includes(name)) this[name] = value;
    else if (name === "colormap" && this.#explained) this.#recolour();
    else {
      if (name === "src") this.#source = value;
      this.#askSoon();
    }
  }

  // -- What a page sets

  get picture() {
    return this.#picture;
  }
  set picture(value) {
    this.#picture = value ?? null;
    this.#opened = this.#open(this.#picture);
  }

  get explained() {
    return this.#explained;
  }
  set explained(value) {
    this.#explained = value ?? null;
    this.#mapped = this.#unpack(this.#explained);
  }

  get palette() {
    return this.#palette;
  }
  set palette(value) {
    this.#palette = typeof value === "string" && value ? fromBase64(value) : value || null;
    this.#repaint("heat");
  }

  /** Sent as a bearer token; never read from an attribute, never put into an address. */
  get key() {
    return this.#key;
  }
  set key(value) {
    this.#key = value || null;
  }

  get mode() {
    return this.#look.mode;
  }
  set mode(value) {
    this.#look.mode = MODES.includes(value) ? value : "overlay";
    this.#tell();
  }

  get opacity() {
    return this.#look.opacity;
  }
  set opacity(value) {
    this.#look.opacity = shareOf(value, 0.55);
    this.#repaint();
  }

  get threshold() {
    return this.#look.threshold;
  }
  set threshold(value) {
    this.#look.threshold = shareOf(value, 0);
    this.#repaint("heat");
  }

  get regions() {
    return this.#look.regions;
  }
  set regions(value) {
    this.#look.regions = Boolean(value);
    this.#repaint("heat");
  }

  /** The present view as PNG, at the picture's own resolution. */
  async toBlob() {
    await Promise.all([this.#opened, this.#mapped]);
    const size = this.#size();
    if (!size) throw new Problem("nothing_shown", "There is no picture yet.");
    this.#refresh();
    const { panels } = this.#layout();
    const surface = canvas(Math.round(size.width / panels[0].width), Math.round(size.height / panels[0].height));
    draw(surface.getContext("2d"), this.#scene(panels, this.#shown), Math.max(1, surface.width / EXPORTED_AS_PX));
    const blob = await new Promise((resolve) => surface.toBlob(resolve, "image/png"));
    if (!blob) throw new Problem("too_large", "This browser cannot make a picture that large.");
    return blob;
  }

  // -- From what was set to what can be drawn

  async #open(picture) {
    const shown = picture && (await bitmapOf(picture).catch(() => null));
    if (this.#picture !== picture) return; // another one was set meanwhile
    this.#shown = shown;
    this.#undisplayable = Boolean(picture) && !shown;
    await this.#substitute();
    this.#tell();
    if (this.#undisplayable) this.#report(new Problem("undisplayable", UNDISPLAYABLE));
  }

  async #unpack(explained) {
    const map = explained && (await unpacked(explained).catch((error) => error));
    if (this.#explained !== explained) return; // another one was set meanwhile
    this.#map = map instanceof SaliencyMap ? map : null;
    this.#part.problem.hidden ||= this.#map !== null;
    if (map && !this.#map) this.#fail(map);
    this.#stale = true;
    this.#leave();
    await this.#substitute();
    this.#tell();
  }

  /** Of a picture that the browser cannot show, show what the server made of it. */
  async #substitute() {
    const overlay = this.#explained?.explanation.overlay;
    if (!this.#undisplayable || !overlay) return;
    this.#shown = await decode(overlay).catch(() => null);
    this.#undisplayable = !this.#shown;
  }

  /** Put everything into words that is not drawn: legend, colour bar, names of the pictures. */
  #tell() {
    const { scale, zero, low, high, bar, legend, readout, words, divider, view } = this.#part;
    const map = this.#look.mode === "original" ? null : this.#map;
    scale.hidden = !map || map.explanation.empty;
    zero.hidden = !map?.signed;
    legend.hidden = !map?.hasUnseen;
    readout.hidden = !this.#map;
    divider.hidden = this.#look.mode !== "swipe" || !map;
    if (map) {
      low.textContent = map.signed ? number(-map.greatest) : "0";
      high.textContent = map.signed ? `+${number(map.greatest)}` : `max ${number(map.greatest)}`;
      bar.ariaLabel = `Colours from ${low.textContent} to ${high.textContent}`;
    }
    const empty = map?.explanation.empty ? emptyWords(map.explanation) : "";
    const said = this.#undisplayable ? UNDISPLAYABLE : empty;
    words.hidden = !said;
    if (words.textContent !== said) words.textContent = said;
    view.ariaLabel = [map ? mapWords(map) : "The picture", said].filter(Boolean).join(". ");
    this.#repaint();
  }

  #size() {
    return this.#map?.image ?? this.#shown;
  }

  #layout() {
    const { width, height } = this.#size() ?? { width: 3, height: 2 };
    const stacked = this.clientWidth < NARROW_PX && width > height;
    const mode = this.#map ? this.#look.mode : "original";
    return layout(mode, width / height, stacked, this.#part.divider.value / 100);
  }

  #scene(panels, picture) {
    return { panels, picture, map: this.#map, outline: this.#outline, opacity: this.#look.opacity };
  }

  // -- Painting

  /** Paint with the next frame, however often something changes before; "heat" where the map's own pixels change. */
  #repaint(what = "") {
    this.#stale ||= what === "heat";
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  #paint() {
    const { stage, view } = this.#part;
    stage.hidden = !this.#size() && !this.#running && this.#part.words.hidden;
    if (stage.hidden) return;
    this.#refresh();
    const { ratio, panels } = this.#layout();
    stage.style.setProperty("--ratio", ratio);
    const unit = Math.min(devicePixelRatio, 2);
    const [width, height] = [stage.clientWidth, stage.clientHeight].map((side) => Math.round(side * unit));
    if (!width || !height) return; // shown nowhere
    if (view.width !== width || view.height !== height) Object.assign(view, { width, height });
    const panel = [panels[0].width * width, panels[0].height * height].map(Math.ceil);
    const scene = this.#scene(panels, this.#shown && this.#reduced(...panel));
    draw(view.getContext("2d"), { ...scene, cross: this.#crossShare() }, unit);
  }

  /** Bring heat, outline and colour bar up to date with palette and threshold. */
  #refresh() {
    if (!this.#stale || !this.#map) return;
    this.#stale = false;
    const { threshold, regions } = this.#look;
    const palette = this.#palette ?? plainPalette(this.#map.signed);
    this.#map.paint(palette, threshold);
    const outlined = regions && !this.#map.explanation.empty;
    this.#outline = outlined ? this.#map.outline(threshold || OUTLINED_SHARE) : null;
    const colours = new Uint8ClampedArray(this.#map.colours(palette, threshold).buffer);
    this.#part.bar.getContext("2d").putImageData(new ImageData(colours, 256, 1), 0, 0);
  }

  /** The picture at the size of a panel: reducing a large one takes longer than a frame. */
  #reduced(width, height) {
    const { picture, surface } = this.#small;
    if (picture === this.#shown && surface.width === width && surface.height === height) return surface;
    this.#small = { picture: this.#shown, surface: canvas(width, height) };
    const context = this.#small.surface.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#shown, 0, 0, width, height);
    return this.#small.surface;
  }

  // -- Reading values

  #listen() {
    const { view, divider, cancel, retry } = this.#part;
    for (const kind of ["pointermove", "pointerdown"]) view.addEventListener(kind, (event) => this.#point(event));
    view.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && this.#leave()); // a finger covers it
    view.addEventListener("blur", () => this.#leave());
    view.addEventListener("keydown", (event) => this.#step(event));
    divider.addEventListener("input", () => this.#repaint());
    cancel.addEventListener("click", () => this.#running?.abort());
    retry.addEventListener("click", () => this.explain());
  }

  #point({ clientX, clientY }) {
    if (!this.#map) return;
    const box = this.#part.view.getBoundingClientRect();
    const [across, down] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    const within = ({ x, y, width, height }) => across >= x && across <= x + width && down >= y && down <= y + height;
    const panel = this.#layout().panels.find(within);
    if (!panel) return this.#leave();
    const { width, height } = this.#map.image;
    this.#read(((across - panel.x) / panel.width) * width, ((down - panel.y) / panel.height) * height, "off");
  }

  /** Move the cross-hair by a hundredth of the picture, with Shift by a tenth. */
  #step(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Escape") this.#leave();
    if (!(event.key in moves) || !this.#map || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const { image, view, explanation } = this.#map;
    const middle = { x: (view.left + view.right) / 2, y: (view.top + view.bottom) / 2 };
    const { x, y } = this.#cross ?? explanation.peak ?? middle;
    const step = Math.max(1, Math.round(Math.max(image.width, image.height) / (event.shiftKey ? 10 : 100)));
    const [right, down] = this.#cross ? moves[event.key] : [0, 0]; // the first key shows it, where the map is strongest
    this.#read(x + right * step, y + down * step, "polite");
  }

  #read(across, down, live) {
    const { image, signed } = this.#map;
    const x = clamp(Math.floor(across), 0, image.width - 1);
    const y = clamp(Math.floor(down), 0, image.height - 1);
    const found = this.#map.at(x, y);
    this.#cross = { x, y };
    const value = found.seen && `${fixed(found.share)} × ${signed ? "greatest" : "max"} = ${number(found.value)}`;
    this.#part.readout.ariaLive = live;
    this.#part.readout.textContent = `${value || "not seen by the model"} at (${x}, ${y})`;
    this.#send("camserve-hover", { x, y, ...found });
    this.#repaint();
  }

  #leave() {
    this.#cross = null;
    this.#part.readout.textContent = "";
    this.#repaint();
  }

  #crossShare() {
    if (!this.#cross || !this.#map) return null;
    const { width, height } = this.#map.image;
    return { across: (this.#cross.x + 0.5) / width, down: (this.#cross.y + 0.5) / height };
  }

  #send(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  // -- Asking by itself

  /** Ask about a picture, a Blob or its address, with the attributes as options; whatever was under way is given up. */
  async explain(source = this.#source ?? this.getAttribute("src")) {
    clearTimeout(this.#timer);
    this.#running?.abort();
    this.#source = source;
    if (!source) return null;
    const controller = new AbortController();
    this.#running = controller;
    this.#progress("Explaining…");
    try {
      return await this.#ask(source, controller.signal);
    } catch (error) {
      if (this.#running === controller) this.#fail(error);
      return null;
    } finally {
      if (this.#running === controller) {
        this.#running = null;
        this.#progress(null);
      }
    }
  }

  async #ask(source, signal) {
    const blob = typeof source === "string" ? await this.#fetched(source, signal) : source;
    if (this.#picture !== blob) Object.assign(this, { explained: null, picture: blob });
    await this.#opened;
    const model = this.getAttribute("model");
    const url = `${this.#server()}api/v1/${model ? `models/${encodeURIComponent(model)}/` : ""}explain`;
    const asking = { key: this.key, signal, onWait: (text) => this.#progress(text) };
    const [answer] = await Promise.all([ask(url, { ...asking, form: this.#form(blob) }), this.#colours(asking)]);
    const palette = await this.#colours(asking); // at hand by now; the attribute may have changed
    signal.throwIfAborted();
    const [result] = answer.results;
    if (result.error) throw new Problem(result.error.code, result.error.detail);
    const [explanation] = result.explanations;
    Object.assign(this, { palette, explained: { image: result.image, view: result.view, explanation } });
    await this.#mapped;
    this.#part.caption.textContent = captionOf(answer.model.name, explanation);
    this.#part.caption.hidden = false;
    this.#send("camserve-explained", { answer, result, explanation });
    return answer;
  }

  #askSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.isConnected && this.explain(), DEBOUNCE_MS);
  }

  #form(blob) {
    const form = new FormData();
    form.append("image", blob, blob.name ?? "picture");
    for (const name of ["head", "layer", "target", "against", "method"]) {
      if (this.getAttribute(name)) form.append(name, this.getAttribute(name));
    }
    if (this.hasAttribute("signed")) form.append("signed", "true");
    form.append("output", "mask");
    if (!this.#shown) {
      form.append("output", "overlay");
      form.append("alpha", "0"); // the picture itself, in a format that every browser shows
    }
    return form;
  }

  async #fetched(url, signal) {
    if (this.#loaded.url !== url) this.#loaded = { url, blob: await load(url, signal) };
    return this.#loaded.blob;
  }

  #server() {
    return new URL(`${this.getAttribute("server") ?? HOME}/`.replace(/\/+$/, "/"), document.baseURI).href;
  }

  #colours(asking) {
    return paletteOf(this.#server(), this.getAttribute("colormap"), this.hasAttribute("signed"), asking);
  }

  async #recolour() {
    const asking = { key: this.key, signal: AbortSignal.timeout(TIMEOUT_MS), onWait: () => {} };
    await this.#colours(asking).then((palette) => Object.assign(this, { palette }), (error) => this.#fail(error));
  }

  #progress(text) {
    const { progress, status, problem } = this.#part;
    progress.hidden = text === null;
    status.textContent = text ?? "";
    problem.hidden ||= text !== null;
    this.#repaint();
  }

  #fail(error) {
    const problem = error.name === "AbortError" ? new Problem("cancelled", "Cancelled.") : error;
    this.#part["problem-text"].textContent = problem.message;
    this.#part.retry.hidden = !this.#source;
    this.#part.problem.hidden = false;
    this.#report(problem);
  }

  #report({ code = "failed", message }) {
    this.#send("camserve-error", { code, message });
  }
}

customElements.define("camserve-viewer", CamserveViewer);
