// Something that takes time: says that it runs, can be cancelled, and ends in a result or in a problem with a way out.

import { make } from "../shared/elements.js";
import { Problem, words } from "../shared/problems.js";
import { change, changes } from "./state.js";

const QUIET_MS = 400; // what is over sooner shows no progress

export class Task {
  /** `place` gets the progress, `below` the problem; `retry` is what "Try again" does, after "Use the defaults" as well. */
  constructor(place, below, retry, { defaults = {} } = {}) {
    this.defaults = defaults;
    this.status = make("span", { attributes: { role: "status" } });
    this.elapsed = make("span", { className: "note", ariaHidden: "true" });
    this.bar = make("progress", { ariaLabel: "Progress" });
    this.cancel = make("button", { type: "button", className: "cancel", onclick: () => this.stop() }, "Cancel");
    const said = make("p", {}, this.status, " ", this.elapsed);
    this.waiting = make("div", { className: "waiting", hidden: true }, said, this.bar, this.cancel);
    this.text = make("p", { attributes: { role: "alert" } });
    this.retry = make("button", { type: "button", className: "retry", onclick: retry }, "Try again");
    const reset = () => (change(defaults), retry());
    this.reset = make("button", { type: "button", className: "reset", onclick: reset }, "Use the defaults");
    const out = make("p", { className: "row" }, this.retry, this.reset);
    this.problem = make("div", { className: "problem", hidden: true }, this.text, out);
    place.append(this.waiting);
    below.append(this.problem);
    this.running = null;
  }

  get failed() {
    return !this.problem.hidden;
  }

  stop() {
    this.running?.abort();
  }

  /** Stop, and say nothing more: what it was about is no longer on screen. */
  leave() {
    this.stop();
    this.running = null;
    this.waiting.hidden = this.problem.hidden = true;
    this.elapsed.textContent = "";
  }

  /**
   * Run `job({signal, say})`; whatever ran before is given up. True if it came to its end. `say(text, share)` has the bar
   * show how much is done, if somebody knows.
   */
  async run(what, job) {
    this.stop();
    const controller = (this.running = new AbortController());
    const mine = () => this.running === controller;
    this.problem.hidden = true;
    this.say(what);
    const over = this.#watch(mine);
    try {
      const { signal } = controller;
      const say = (text, share) => mine() && this.say(text, share);
      await Promise.race([job({ signal, say }), aborted(signal)]);
      return mine();
    } catch (error) {
      if (mine()) this.#fail(error);
      return false;
    } finally {
      over();
    }
  }

  say(text, share) {
    if (this.status.textContent !== text) this.status.textContent = text;
    if (share === undefined) this.bar.removeAttribute("value");
    else this.bar.value = share;
  }

  #watch(mine) {
    const began = performance.now();
    const showing = setTimeout(() => mine() && (this.waiting.hidden = false), QUIET_MS);
    const counting = setInterval(() => {
      this.elapsed.textContent = `${Math.round((performance.now() - began) / 1000)} s`;
    }, 1000);
    return () => {
      clearTimeout(showing);
      clearInterval(counting);
      if (!mine()) return; // the next one counts its own seconds
      const focused = this.waiting.contains(document.activeElement);
      this.waiting.hidden = true;
      this.elapsed.textContent = "";
      this.running = null;
      if (focused && !this.problem.hidden) this.retry.focus();
    };
  }

  #fail(error) {
    if (!(error instanceof Problem) && error.name !== "AbortError") console.error(error);
    this.text.textContent = words(error);
    this.reset.hidden = !changes(this.defaults).length; // otherwise it is of no use
    this.problem.hidden = false;
  }
}

/** Rejects as soon as `signal` is aborted, whatever the job is waiting for. */
function aborted(signal) {
  return new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
}
