// What a viewer on its own asks its server: about one picture, with its attributes as options.

import { ask, download, explainForm, explainPath } from "../shared/api.js";
import { clamp } from "../shared/numbers.js";
import { PICTURE_ITSELF } from "../shared/options.js";
import { Problem, problemOfResult } from "../shared/problems.js";
import { paletteOf } from "./palettes.js";

const HOME = new URL("../..", import.meta.url).href; // the server that this file came from, with its path if it has one
const SENT = ["head", "layer", "target", "against", "method"]; // the attributes that are options of the request as they are
const DEBOUNCE_MS = 150; // a page that sets five attributes asks once
const MOST_TRIES = 8;
const LONGEST_WAIT_S = 30;

const MANNER = {
  timeoutS: 120,
  nextWait: ({ asked, tries }) => (tries === MOST_TRIES ? null : clamp(asked, 1, LONGEST_WAIT_S)),
  init: { credentials: "omit" },
};

export class Question {
  #viewer;
  #host;
  #source = null; // what `explain` was called with last
  #loaded = {}; // what was loaded from an address
  #running = null; // the AbortController of the request in progress
  #timer = 0;

  /**
   * `viewer` is the element. `host` is what it does with what comes: `picture(blob)` resolves to whether the browser can
   * show it, `answered(answer, palette)` shows an answer, `palette(table)` colours, `progress(text or null)` and
   * `failed(problem)` say how it goes.
   */
  constructor(viewer, host) {
    [this.#viewer, this.#host] = [viewer, host];
  }

  get running() {
    return this.#running !== null;
  }

  /** Whether there is something to ask about. */
  get hasSource() {
    return Boolean(this.#source);
  }

  /** The address of another picture. */
  set source(address) {
    this.#source = address;
  }

  cancel() {
    this.#running?.abort();
  }

  /** Ask soon, unless somebody asks before. */
  askSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#viewer.isConnected && this.explain(), DEBOUNCE_MS);
  }

  stop() {
    this.cancel();
    clearTimeout(this.#timer);
  }

  /** Ask about a picture, a Blob or its address; whatever was under way is given up. Resolves to the answer or null. */
  async explain(source = this.#source ?? this.#viewer.getAttribute("src")) {
    this.stop();
    this.#source = source;
    if (!source) return null;
    const controller = new AbortController();
    this.#running = controller;
    this.#host.progress("Explaining…");
    try {
      return await this.#ask(source, controller.signal);
    } catch (error) {
      if (this.#running === controller) this.#host.failed(error);
      return null;
    } finally {
      if (this.#running === controller) {
        this.#running = null;
        this.#host.progress(null);
      }
    }
  }

  /** Ask for other colours: that is no other question. */
  async recolour() {
    const quietly = { ...this.#asking(), say: undefined };
    await this.#palette(quietly).then(this.#host.palette, this.#host.failed);
  }

  async #ask(source, signal) {
    const picture = typeof source === "string" ? await this.#fetched(source, signal) : source;
    const displayable = await this.#host.picture(picture);
    const asking = { ...this.#asking(), signal };
    const url = `${this.#server()}api/v1/${explainPath(this.#viewer.getAttribute("model"))}`;
    const form = explainForm([picture], this.#options(displayable));
    const [answer] = await Promise.all([ask(url, { ...asking, form }), this.#palette(asking)]).catch(refused);
    const palette = await this.#palette(asking); // at hand by now; the attribute may have changed
    signal.throwIfAborted();
    const [result] = answer.results;
    if (result.error) throw problemOfResult(result.error);
    await this.#host.answered(answer, palette);
    return answer;
  }

  #asking() {
    return { key: this.#viewer.key, say: this.#host.progress, manner: MANNER };
  }

  #options(displayable) {
    const given = SENT.map((name) => [name, this.#viewer.getAttribute(name)]).filter(([, value]) => value);
    if (this.#viewer.hasAttribute("signed")) given.push(["signed", "true"]);
    return [...given, ["output", "mask"], ...(displayable ? [] : PICTURE_ITSELF)];
  }

  async #fetched(url, signal) {
    const missing = ({ status, statusText }) => `The picture cannot be loaded: ${status} ${statusText}.`;
    if (this.#loaded.url !== url) this.#loaded = { url, blob: await download(url, { signal, missing }) };
    return this.#loaded.blob;
  }

  #server() {
    return new URL(`${this.#viewer.getAttribute("server") ?? HOME}/`.replace(/\/+$/, "/"), document.baseURI).href;
  }

  #palette(asking) {
    const signed = this.#viewer.hasAttribute("signed");
    return paletteOf(this.#server(), this.#viewer.getAttribute("colormap"), signed, asking);
  }
}

/** Say who can mend it where a key is missing: the visitor cannot. */
function refused(error) {
  if (error.status !== 401) throw error;
  throw new Problem(`${error.message} The page around this must set the key.`, error);
}
