// The versions of a model and the aliases that point to them.

import { make } from "../shared/elements.js";
import { redraw } from "./dom.js";
import { versionWords } from "./loading.js";

export class Versions {
  /** `point(alias, version)` and `unpoint(alias)` change the aliases. */
  constructor(name, { point, unpoint }) {
    Object.assign(this, { name, unpoint });
    this.list = make("ul", { className: "versions", ariaLabel: `Versions of ${name}` });
    this.alias = make("input", { type: "text", required: true, maxLength: 100, spellcheck: false, autocomplete: "off" });
    this.version = make("select", { required: true });
    const submit = (event) => {
      event.preventDefault();
      point(this.alias.value.trim(), this.version.value);
    };
    const button = make("button", { type: "submit" }, "Point it here");
    this.form = make("form", { className: "row", onsubmit: submit },
      make("label", { className: "inline" }, "Alias ", this.alias), make("label", { className: "inline" }, "Version ", this.version), button);
    const note = make("p", { className: "note" }, "An alias is a further name of one version; one that exists is moved.");
    this.aliases = make("details", {}, make("summary", {}, "Point an alias to a version"), note, this.form);
  }

  show(versions, may) {
    const alone = versions.length === 1; // the card has said why
    const known = versions.map(({ version, state, reason, current, aliases }) => ({ version, state, reason: alone ? null : reason, current, aliases, may }));
    redraw(this.list, known, () => known.map((one) => this.#row(one)));
    const labels = versions.filter(({ version, state }) => version && ["ready", "unloaded"].includes(state)).map(({ version }) => version);
    redraw(this.version, labels, () => labels.map((label) => new Option(label, label, false, label === this.version.value)));
    this.aliases.hidden = !may || !labels.length;
  }

  #row({ version, state, reason, current, aliases, may }) {
    const said = [versionWords(state), current && state === "ready" && "answers"].filter(Boolean).join(", ");
    const names = aliases.map((alias) => make("span", { className: "alias" }, alias, may && this.#remove(alias)));
    return make("li", {}, make("span", { className: "label" }, version ?? "not known yet"), make("span", {}, said),
      ...(names.length ? [make("span", { className: "row" }, aliases.length > 1 ? "aliases" : "alias", ...names)] : []),
      reason && make("span", { className: "reason" }, reason));
  }

  #remove(alias) {
    const button = make("button", { type: "button", className: "drop", ariaLabel: `Remove the alias ${alias}`, onclick: () => this.unpoint(alias) }, "×");
    button.dataset.key = `alias-${alias}`;
    return button;
  }
}
