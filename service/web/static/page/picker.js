// A button that opens a list to choose from: searchable, grouped, with a line of explanation for each choice, and with
// the reason where something cannot be chosen. A <select> has room for none of this.

import { make } from "../shared/elements.js";
import { load } from "./catalogue.js";

let count = 0;

export class Picker {
  /**
   * `groups(query)` resolves to [{title, options: [{value, name, tag, note, refused}]}]; `chosen()` is the list of
   * values in force; `choose(value)` is called with each choice. With `multiple`, the list stays open.
   */
  constructor(button, { title, groups, chosen, choose, multiple = false }) {
    Object.assign(this, { button, groups, chosen, choose, multiple, id: `picker-${count++}` });
    this.filter = make("input", {
      type: "search", placeholder: "Type to search", autocomplete: "off", spellcheck: false, ariaLabel: `Search: ${title}`,
      attributes: { role: "combobox", "aria-autocomplete": "list", "aria-controls": `${this.id}-list`, "aria-expanded": "true" },
    });
    this.filled = Promise.resolve(); // settles when the list is of what has been typed
    this.list = make("div", {
      id: `${this.id}-list`, className: "options", ariaLabel: title,
      attributes: { role: "listbox", ...(multiple && { "aria-multiselectable": "true" }) },
    });
    this.none = make("p", { className: "note", hidden: true, attributes: { role: "status" } });
    const close = make("button", { type: "button", className: "close", onclick: () => this.popup.hidePopover() }, "Done");
    const head = make("div", { className: "row" }, this.filter, close);
    this.popup = make("div", { className: "picker", popover: "auto", attributes: { role: "dialog", "aria-label": title } });
    this.popup.append(head, this.none, this.list);
    button.after(this.popup);
    button.ariaHasPopup = "dialog";
    button.ariaExpanded = "false";
    this.#listen();
  }

  #listen() {
    this.button.addEventListener("click", () => this.open());
    this.filter.addEventListener("input", () => this.#fill());
    this.popup.addEventListener("keydown", (event) => this.#key(event));
    this.popup.addEventListener("toggle", ({ newState }) => {
      this.button.ariaExpanded = String(newState === "open");
    });
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the focus stays in the search
    this.list.addEventListener("click", (event) => this.#take(event.target.closest("[role=option]")));
  }

  async open() {
    this.filter.value = "";
    this.popup.showPopover();
    this.#place();
    const touch = matchMedia("(pointer: coarse)").matches; // there, the keyboard would cover the list
    if (!touch) this.filter.focus();
    await this.#fill();
    this.#place();
  }

  /** Below the button, or above it where there is more room; narrow screens leave it to the stylesheet. */
  #place() {
    const box = this.button.getBoundingClientRect();
    const style = this.popup.style;
    const width = Math.min(Math.max(box.width, 340), innerWidth - 16);
    const below = innerHeight - box.bottom;
    const up = below < 320 && box.top > below;
    style.setProperty("--width", `${width}px`);
    style.setProperty("--left", `${Math.max(8, Math.min(box.left, innerWidth - width - 16))}px`);
    style.setProperty("--top", up ? "auto" : `${box.bottom + 4}px`);
    style.setProperty("--bottom", up ? `${innerHeight - box.top + 4}px` : "auto");
    style.setProperty("--height", `${Math.min(480, (up ? box.top : below) - 16)}px`);
  }

  #fill() {
    this.filled = this.#list(this.filter.value.trim());
    return this.filled;
  }

  async #list(query) {
    let groups;
    try {
      await load(); // the list may be opened before it is known what the server offers
      groups = await this.groups(query);
    } catch (error) {
      this.#show([], error.message);
      return;
    }
    if (query === this.filter.value.trim()) this.#show(groups, query ? `Nothing matches “${query}”.` : "Nothing to choose from.");
  }

  #show(groups, otherwise) {
    const chosen = new Set(this.chosen());
    const filled = groups.filter(({ options }) => options.length);
    this.list.replaceChildren(...filled.map((group, index) => this.#group(group, index, chosen)));
    this.none.hidden = filled.length > 0;
    this.none.textContent = filled.length ? "" : otherwise;
    this.#mark(this.list.querySelector("[aria-selected=true]") ?? this.#options()[0]);
  }

  #group({ title, options }, index, chosen) {
    const id = `${this.id}-group-${index}`;
    const heading = make("p", { id, className: "group" }, title);
    const rows = options.map((option, row) => this.#option(option, `${id}-${row}`, chosen));
    return make("div", { attributes: { role: "group", "aria-labelledby": id } }, heading, ...rows);
  }

  #option({ value, name, tag, note, refused }, id, chosen) {
    const first = make("span", { className: "name" }, name, tag && make("span", { className: "tag" }, tag));
    const more = refused ?? note;
    return make("div", {
      id, className: "option", ariaSelected: String(chosen.has(value)), ariaDisabled: refused ? "true" : null,
      attributes: { role: "option", "data-value": value },
    }, first, more && make("span", { className: "note" }, more));
  }

  #options() {
    return [...this.list.querySelectorAll("[role=option]")];
  }

  #mark(option) {
    this.list.querySelector(".active")?.classList.remove("active");
    option?.classList.add("active");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.filter.setAttribute("aria-activedescendant", option.id);
    else this.filter.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    const options = this.#options();
    const at = options.findIndex((option) => option.classList.contains("active"));
    const steps = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 8, PageUp: at - 8 };
    if (event.key in steps) {
      event.preventDefault();
      this.#mark(options[Math.max(0, Math.min(steps[event.key], options.length - 1))]);
    } else if (event.key === "Enter" && event.target === this.filter) {
      event.preventDefault();
      this.filled.then(() => this.#takeMarked()); // of what was typed, not of a list before it
    }
  }

  #takeMarked() {
    if (this.popup.matches(":popover-open")) this.#take(this.list.querySelector(".active"));
  }

  #take(option) {
    if (!option || option.ariaDisabled === "true") return;
    this.choose(option.dataset.value);
    if (!this.multiple) {
      this.popup.hidePopover();
      this.button.focus();
      return;
    }
    const chosen = new Set(this.chosen());
    for (const row of this.#options()) row.ariaSelected = String(chosen.has(row.dataset.value));
    this.#mark(option);
  }
}
