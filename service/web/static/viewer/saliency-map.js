// A map as the viewer keeps it: unpacked once from the 8-bit mask, so that a repaint is one look-up per pixel.

import { blob } from "../shared/base64.js";
import { clamp } from "../shared/numbers.js";
import { Problem } from "../shared/problems.js";
import { canvas } from "./surfaces.js";

const ROUNDING = 0.002; // of a side: what is cut off beyond it was not seen

/** Unpack the mask of `{image, view, explanation}`, as an answer with output=mask has them. */
export async function unpacked(explained) {
  const { mask } = explained.explanation;
  if (!mask) throw new Problem("This explanation has no mask: ask for output=mask.", { code: "no_mask" });
  const bitmap = await createImageBitmap(blob(mask)).catch(() => null);
  if (!bitmap) throw new Problem("The heatmap cannot be read: what came is not a picture.", { code: "invalid_mask" });
  return new SaliencyMap(bitmap, explained);
}

/** The levels of what the model saw; the rest of the mask is not kept. */
export class SaliencyMap {
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
    return Math.max(left / width, top / height, 1 - right / width, 1 - bottom / height) > ROUNDING;
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

  /** Colour `heat`. */
  paint(palette, threshold) {
    const table = this.colours(palette, threshold);
    const painted = new Uint32Array(this.pixels.data.buffer);
    const { levels } = this;
    for (let index = 0; index < levels.length; index++) painted[index] = table[levels[index]];
    this.heat.getContext("2d").putImageData(this.pixels, 0, 0);
  }
}
