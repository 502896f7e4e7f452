// The element <camserve-viewer>: what a page sets, and when which part of it is drawn.

import { blob, bytes } from "../shared/base64.js";
import { caption, description, whyEmpty } from "../shared/captions.js";
import { clamp, threeDigits } from "../shared/numbers.js";
import { ASKED, VIEW } from "../shared/options.js";
import { Problem, words } from "../shared/problems.js";
import { content } from "./content.js";
import { CrossHair } from "./cross-hair.js";
import { Painter } from "./painter.js";
import { Question } from "./question.js";
import { SaliencyMap, unpacked } from "./saliency-map.js";
import { sheet } from "./style.js";
import { bitmapOf } from "./surfaces.js";

const LOOKS = Object.keys(VIEW);
const UNDISPLAYABLE = "This browser cannot show this picture's format.";

/** An attribute or property that lies in 0 to 1. */
const shareOf = (value, { standard, least, most }) =>
  value === null || Number.isNaN(Number(value)) ? standard : clamp(Number(value), least, most);

export class CamserveViewer extends HTMLElement {
  static observedAttributes = ["src", "server", ...Object.keys(ASKED), ...LOOKS];

  #part = {}; // the elements of the shadow tree, by id
  #look = Object.fromEntries(LOOKS.map((name) => [name, VIEW[name].standard]));
  #picture = null; // as it was set
  #shown = null; // what can be drawn of it
  #undisplayable = false;
  #explained = null;
  #map = null;
  #palette = null;
  #opened = null; // settles when the picture is decoded, or is found not to be one
  #mapped = null; // settles when the mask is unpacked
  #key = null;
  #painter;
  #cross;
  #question;
  #sizes = new ResizeObserver(() => this.#painter.repaint());

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [sheet];
    root.append(content());
    for (const element of root.querySelectorAll("[id]")) this.#part[element.id] = element;
    const { view, readout, cancel, retry } = this.#part;
    this.#painter = new Painter(this.#part, () => this.#scene());
    this.#cross = new CrossHair(view, readout, {
      shown: () => ({ map: this.#map, panels: this.#painter.layout().panels }),
      moved: (found) => this.#moved(found),
    });
    this.#question = new Question(this, this.#host());
    cancel.addEventListener("click", () => this.#question.cancel());
    retry.addEventListener("click", () => this.explain());
  }

  connectedCallback() {
    for (const name of ["picture", "explained", "palette", "key", ...LOOKS]) {
      if (!Object.hasOwn(this, name)) continue; // set before this module was loaded
      const value = this[name];
      delete this[name];
      this[name] = value;
    }
    this.#sizes.observe(this);
    if (!this.#explained) this.#question.askSoon();
  }

  disconnectedCallback() {
    this.#sizes.disconnect();
    this.#question.stop();
  }

  attributeChangedCallback(name, before, value) {
    if (before === value) return;
    if (name === "regions") this.regions = value !== null;
    else if (LOOKS.includes(name)) this[name] = value;
    else if (name === "colormap" && this.#explained) this.#question.recolour();
    else {
      if (name === "src") this.#question.source = value;
      this.#question.askSoon();
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
    this.#palette = typeof value === "string" && value ? bytes(value) : value || null;
    this.#painter.repaint("heat");
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
    this.#look.mode = VIEW.mode.choices.includes(value) ? value : VIEW.mode.standard;
    this.#tell();
  }

  get opacity() {
    return this.#look.opacity;
  }
  set opacity(value) {
    this.#look.opacity = shareOf(value, VIEW.opacity);
    this.#painter.repaint();
  }

  get threshold() {
    return this.#look.threshold;
  }
  set threshold(value) {
    this.#look.threshold = shareOf(value, VIEW.threshold);
    this.#painter.repaint("heat");
  }

  get regions() {
    return this.#look.regions;
  }
  set regions(value) {
    this.#look.regions = Boolean(value);
    this.#painter.repaint("heat");
  }

  /** Ask about a picture, a Blob or its address, with the attributes as options; whatever was under way is given up. */
  explain(source) {
    return this.#question.explain(source);
  }

  /** The present view as PNG, at the picture's own resolution. */
  async toBlob() {
    await Promise.all([this.#opened, this.#mapped]);
    return this.#painter.file();
  }

  // -- From what was set to what can be drawn

  async #open(picture) {
    const shown = picture && (await bitmapOf(picture).catch(() => null));
    if (this.#picture !== picture) return; // another one was set meanwhile
    this.#shown = shown;
    this.#undisplayable = Boolean(picture) && !shown;
    await this.#substitute();
    this.#tell();
    if (this.#undisplayable) this.#report(new Problem(UNDISPLAYABLE, { code: "undisplayable" }));
  }

  async #unpack(explained) {
    const map = explained && (await unpacked(explained).catch((error) => error));
    if (this.#explained !== explained) return; // another one was set meanwhile
    this.#map = map instanceof SaliencyMap ? map : null;
    this.#part.problem.hidden ||= this.#map !== null;
    if (map && !this.#map) this.#fail(map);
    this.#painter.repaint("heat");
    this.#cross.leave();
    await this.#substitute();
    this.#tell();
  }

  /** Of a picture that the browser cannot show, show what the server made of it. */
  async #substitute() {
    const overlay = this.#explained?.explanation.overlay;
    if (!this.#undisplayable || !overlay) return;
    this.#shown = await createImageBitmap(blob(overlay)).catch(() => null);
    this.#undisplayable = !this.#shown;
  }

  /** Put everything into words that is not drawn: legend, colour bar, names of the pictures. */
  #tell() {
    const { scale, zero, low, high, bar, legend, readout, words: said, divider, view } = this.#part;
    const map = this.#look.mode === "original" ? null : this.#map;
    scale.hidden = !map || map.explanation.empty;
    zero.hidden = !map?.signed;
    legend.hidden = !map?.hasUnseen;
    readout.hidden = !this.#map;
    divider.hidden = this.#look.mode !== "swipe" || !map;
    if (map) {
      low.textContent = map.signed ? threeDigits(-map.greatest) : "0";
      high.textContent = map.signed ? `+${threeDigits(map.greatest)}` : `max ${threeDigits(map.greatest)}`;
      bar.ariaLabel = `Colours from ${low.textContent} to ${high.textContent}`;
    }
    const empty = map?.explanation.empty ? `The map is empty: ${whyEmpty(map.explanation)}.` : "";
    const text = this.#undisplayable ? UNDISPLAYABLE : empty;
    said.hidden = !text;
    if (said.textContent !== text) said.textContent = text;
    view.ariaLabel = [map ? description(map) : "The picture", text].filter(Boolean).join(". ");
    this.#painter.repaint();
  }

  #scene() {
    const { clientWidth: width } = this;
    const cross = this.#map && this.#cross.share(this.#map.image);
    const busy = this.#question.running || !this.#part.words.hidden;
    return { picture: this.#shown, map: this.#map, look: this.#look, palette: this.#palette, cross, width, busy };
  }

  // -- What comes from its parts

  #host() {
    return {
      picture: async (picture) => {
        if (this.#picture !== picture) Object.assign(this, { explained: null, picture });
        await this.#opened;
        return this.#shown !== null;
      },
      answered: (answer, palette) => this.#answered(answer, palette),
      palette: (palette) => Object.assign(this, { palette }),
      progress: (text) => this.#progress(text),
      failed: (error) => this.#fail(error),
    };
  }

  async #answered(answer, palette) {
    const [result] = answer.results;
    const [explanation] = result.explanations;
    Object.assign(this, { palette, explained: { image: result.image, view: result.view, explanation } });
    await this.#mapped;
    this.#part.caption.textContent = caption(explanation, { model: answer.model.name });
    this.#part.caption.hidden = false;
    this.#send("camserve-explained", { answer, result, explanation });
  }

  #progress(text) {
    const { progress, status, problem } = this.#part;
    progress.hidden = text === null;
    status.textContent = text ?? "";
    problem.hidden ||= text !== null;
    this.#painter.repaint();
  }

  #fail(error) {
    this.#part["problem-text"].textContent = words(error);
    this.#part.retry.hidden = !this.#question.hasSource;
    this.#part.problem.hidden = false;
    this.#report(error);
  }

  #report(error) {
    const code = error.name === "AbortError" ? "cancelled" : error.code ?? "failed";
    this.#send("camserve-error", { code, message: words(error) });
  }

  #moved(found) {
    if (found) this.#send("camserve-hover", found);
    this.#painter.repaint();
  }

  #send(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }
}
