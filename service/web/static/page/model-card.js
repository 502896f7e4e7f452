// One model: what it is, how far it is, and what can be done with it. It is changed in place, so that nothing that somebody
// reads, opens or types in moves or is lost.

import { make } from "../shared/elements.js";
import { wholePercent } from "../shared/numbers.js";
import { problemWords } from "../shared/problems.js";
import { ask } from "./api.js";
import { offered } from "./catalogue.js";
import { put, redraw } from "./dom.js";
import { facts } from "./facts.js";
import { Layers } from "./model-layers.js";
import { Versions } from "./model-versions.js";
import { arriving, failedReplacement, loadingWords, modelWords } from "./loading.js";

export class Card {
  /** `use(name)` explains with the model, `remove(name)` resolves to whether it is to go, and `changed()` follows a change. */
  constructor(name, { use, remove, changed }) {
    Object.assign(this, { name, changed, busy: false });
    this.path = `models/${encodeURIComponent(name)}`;
    const id = `model-named-${name}`;
    this.title = make("h3", { id, tabIndex: -1 }, name);
    this.standard = make("span", { className: "tag" }, "default");
    this.state = make("span", { className: "state", attributes: { role: "status" } });
    this.share = make("span", { className: "share", ariaHidden: "true" });
    this.bar = make("progress", { max: 1, ariaLabel: `How much of ${name} is loaded` });
    this.use = this.#button("Use", () => use(name), "primary");
    const reload = () => this.coming || this.#act("Reloading…", `${this.path}/reload`, { method: "POST" });
    this.reload = this.#button("Reload", reload);
    this.changes = [
      this.reload,
      this.#button("Unload", () => this.#act("Unloading…", `${this.path}/unload`, { method: "POST" })),
      this.#button("Remove…", async () => !this.busy && (await remove(name)) && this.#act("Removing…", this.path, { method: "DELETE" })),
    ];
    this.doing = make("span", { className: "note", attributes: { role: "status" } });
    this.problem = make("div", { className: "problem", hidden: true, attributes: { role: "alert" } });
    this.failure = make("p", { className: "problem", hidden: true });
    this.facts = make("dl", { className: "facts" });
    this.warnings = make("ul", { className: "warnings", ariaLabel: `Warnings about ${name}` });
    this.versions = new Versions(name, {
      point: (alias, version) => this.#alias(alias, { method: "PUT", json: { model: name, version } }),
      unpoint: (alias) => this.#alias(alias, { method: "DELETE" }),
    });
    this.layers = new Layers(name);
    this.element = make("li", { className: "card model", attributes: { "aria-labelledby": id } }, ...this.#parts());
  }

  #parts() {
    return [
      make("div", { className: "row" }, this.title, this.standard,
        make("div", { className: "row push" }, this.doing, this.use, ...this.changes)),
      make("div", { className: "progress" }, make("p", {}, this.state, " ", this.share), this.bar),
      this.problem, this.failure, this.warnings, this.facts, make("h4", {}, "Versions"), this.versions.list,
      this.versions.aliases, this.layers.element,
    ];
  }

  #button(text, onclick, className = "") {
    const named = make("span", { className: "unseen" }, ` ${this.name}`);
    return make("button", { type: "button", className, onclick }, text, named);
  }

  /** Bring the card in line with what the server says. */
  show(model) {
    const may = offered.management === "allowed";
    const coming = (this.coming = arriving(model));
    const failed = failedReplacement(model);
    this.standard.hidden = !model.default;
    put(this.state, stateWords(model, coming));
    put(this.share, coming?.progress ? wholePercent(coming.progress) : "");
    if (coming?.progress) this.bar.value = coming.progress;
    else this.bar.removeAttribute("value"); // nobody knows how long it takes to read the weights
    this.bar.classList.toggle("idle", !coming);
    this.bar.ariaHidden = String(!coming);
    put(this.failure, model.reason ?? (failed ? `The version that was to replace it could not be loaded: ${failed.reason}` : ""));
    this.failure.hidden = !this.failure.textContent;
    this.use.hidden = model.state === "failed";
    for (const button of this.changes) button.hidden = !may;
    this.reload.ariaDisabled = String(Boolean(coming)); // pressed twice: once is enough
    redraw(this.facts, facts(model), (rows) => rows.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text))));
    redraw(this.warnings, model.warnings, (all) => all.map(({ code, text }) => make("li", {}, `${text} `, make("code", {}, code))));
    this.warnings.hidden = !model.warnings.length;
    this.versions.show(model.versions, may);
    this.layers.element.hidden = !model.default_layer;
    if (model.default_layer) this.layers.show();
  }

  async #act(what, path, request) {
    if (this.busy) return;
    this.busy = true;
    this.problem.hidden = true;
    this.doing.textContent = what;
    try {
      await ask(path, { ...request, say: (text) => put(this.doing, text) });
      await this.changed(); // a click before that would do it twice
    } catch (error) {
      this.problem.textContent = problemWords(error);
      this.problem.hidden = false;
      this.changed(); // whoever has read the problem may try again before that
    }
    this.doing.textContent = "";
    this.busy = false;
  }

  #alias(alias, request) {
    return this.#act("Moving the alias…", `aliases/${encodeURIComponent(alias)}`, request);
  }
}

/** How a model is, and how far its next version is, without the numbers, which change all the time. */
function stateWords({ state }, coming) {
  if (!coming) return modelWords(state);
  return state === "loading" ? `Loading: ${loadingWords(coming)}` : `${modelWords(state)}; the next version is on its way: ${loadingWords(coming)}`;
}
