// Reading values: the place under the pointer, or under the cross-hair that the arrow keys move.

import { clamp, threeDigits, twoDecimals } from "../shared/numbers.js";

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class CrossHair {
  #place = null; // in pixels of the picture
  #view;
  #readout;
  #shown;
  #moved;

  /**
   * `view` is the canvas, `readout` the element for what is read. `shown()` returns {map, panels}, the map null where
   * there is none; `moved(found)` is called when the place has changed, with what stands there or null.
   */
  constructor(view, readout, { shown, moved }) {
    [this.#view, this.#readout, this.#shown, this.#moved] = [view, readout, shown, moved];
    for (const kind of ["pointermove", "pointerdown"]) view.addEventListener(kind, (event) => this.#point(event));
    view.addEventListener("pointerleave", ({ pointerType }) => pointerType !== "touch" && this.leave()); // a finger covers it
    view.addEventListener("blur", () => this.leave());
    view.addEventListener("keydown", (event) => this.#step(event));
  }

  /** Read nothing. */
  leave() {
    this.#place = null;
    this.#readout.textContent = "";
    this.#moved(null);
  }

  /** The place in shares of the picture, or null. */
  share({ width, height }) {
    return this.#place && { across: (this.#place.x + 0.5) / width, down: (this.#place.y + 0.5) / height };
  }

  #point({ clientX, clientY }) {
    const { map, panels } = this.#shown();
    if (!map) return;
    const box = this.#view.getBoundingClientRect();
    const [across, down] = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
    const within = ({ x, y, width, height }) => across >= x && across <= x + width && down >= y && down <= y + height;
    const panel = panels.find(within);
    if (!panel) return this.leave();
    const { width, height } = map.image;
    this.#read(map, ((across - panel.x) / panel.width) * width, ((down - panel.y) / panel.height) * height, "off");
  }

  /** Move by a hundredth of the picture, with Shift by a tenth. */
  #step(event) {
    const { map } = this.#shown();
    if (event.key === "Escape") this.leave();
    if (!(event.key in MOVES) || !map || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const { image, view, explanation } = map;
    const middle = { x: (view.left + view.right) / 2, y: (view.top + view.bottom) / 2 };
    const { x, y } = this.#place ?? explanation.peak ?? middle;
    const step = Math.max(1, Math.round(Math.max(image.width, image.height) / (event.shiftKey ? 10 : 100)));
    const [right, down] = this.#place ? MOVES[event.key] : [0, 0]; // the first key shows it, where the map is strongest
    this.#read(map, x + right * step, y + down * step, "polite");
  }

  #read(map, across, down, live) {
    const x = clamp(Math.floor(across), 0, map.image.width - 1);
    const y = clamp(Math.floor(down), 0, map.image.height - 1);
    this.#place = { x, y };
    const found = map.at(x, y);
    this.#readout.ariaLive = live;
    this.#readout.textContent = `${found.seen ? valueWords(map, found) : "not seen by the model"} at (${x}, ${y})`;
    this.#moved({ x, y, ...found });
  }
}

const valueWords = ({ signed }, { share, value }) =>
  `${twoDecimals(share)} × ${signed ? "greatest" : "max"} = ${threeDigits(value)}`;
