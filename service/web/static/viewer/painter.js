// Puts the view on the screen, once per frame, and into files.

import { Problem } from "../shared/problems.js";
import { draw, layout } from "./drawing.js";
import { outline } from "./outline.js";
import { plainPalette } from "./palettes.js";
import { canvas, png, Reduced } from "./surfaces.js";

const NARROW_PX = 480; // below it, landscape pictures are put one above the other
const EXPORTED_AS_PX = 800; // lines of an exported picture are as wide as on a screen of this width
const OUTLINED_SHARE = 0.5; // regions, where no threshold is set: the API's own default

export class Painter {
  #part;
  #scene;
  #outline = null;
  #reduced = new Reduced(); // the picture at the size at which the screen shows it
  #stale = false; // whether palette, threshold or map have changed since the heat was painted
  #frame = 0;

  /**
   * `part` has the elements `stage`, `view`, `bar` and `divider`. `scene()` returns what there is to see: {picture, map,
   * look, palette, cross, width, busy}, the picture and the map null where there is none; `busy` is whether the stage has
   * something to say even so.
   */
  constructor(part, scene) {
    [this.#part, this.#scene] = [part, scene];
    part.divider.addEventListener("input", () => this.repaint());
  }

  /** Paint with the next frame, however often something changes before; "heat" where the map's own pixels change. */
  repaint(what = "") {
    this.#stale ||= what === "heat";
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint(this.#scene());
    });
  }

  /** Where the panels lie, in shares of the whole; and the whole's width over its height. */
  layout({ picture, map, look, width: available } = this.#scene()) {
    const { width, height } = sizeOf({ picture, map }) ?? { width: 3, height: 2 };
    const stacked = available < NARROW_PX && width > height;
    return layout(map ? look.mode : "original", width / height, stacked, this.#part.divider.value / 100);
  }

  /** The view as a PNG file, at the picture's own resolution. */
  async file() {
    const scene = this.#scene();
    const size = sizeOf(scene);
    if (!size) throw new Problem("There is no picture yet.", { code: "nothing_shown" });
    this.#refresh(scene);
    const { panels } = this.layout(scene);
    const surface = canvas(Math.round(size.width / panels[0].width), Math.round(size.height / panels[0].height));
    this.#draw(surface, panels, { ...scene, cross: null }, Math.max(1, surface.width / EXPORTED_AS_PX));
    const file = await png(surface);
    if (!file) throw new Problem("This browser cannot make a picture that large.", { code: "too_large" });
    return file;
  }

  #paint(scene) {
    const { stage, view } = this.#part;
    stage.hidden = !sizeOf(scene) && !scene.busy;
    if (stage.hidden) return;
    this.#refresh(scene);
    const { ratio, panels } = this.layout(scene);
    stage.style.setProperty("--ratio", ratio);
    const unit = Math.min(devicePixelRatio, 2);
    const [width, height] = [stage.clientWidth, stage.clientHeight].map((side) => Math.round(side * unit));
    if (!width || !height) return; // shown nowhere
    if (view.width !== width || view.height !== height) Object.assign(view, { width, height });
    const panel = [panels[0].width * width, panels[0].height * height].map(Math.ceil);
    const picture = scene.picture && this.#reduced.of(scene.picture, ...panel);
    this.#draw(view, panels, { ...scene, picture }, unit);
  }

  #draw(surface, panels, { picture, map, look, cross }, unit) {
    const drawn = { panels, picture, map, outline: this.#outline, opacity: look.opacity, cross };
    draw(surface.getContext("2d"), drawn, unit);
  }

  /** Bring heat, outline and colour bar up to date with palette and threshold. */
  #refresh({ map, look: { threshold, regions }, palette }) {
    if (!this.#stale || !map) return;
    this.#stale = false;
    const colours = palette ?? plainPalette(map.signed);
    map.paint(colours, threshold);
    this.#outline = regions && !map.explanation.empty ? outline(map, threshold || OUTLINED_SHARE) : null;
    const table = new Uint8ClampedArray(map.colours(colours, threshold).buffer);
    this.#part.bar.getContext("2d").putImageData(new ImageData(table, 256, 1), 0, 0);
  }
}

/** The size of what is shown, in pixels of the picture; null where nothing is. */
const sizeOf = ({ picture, map }) => map?.image ?? picture;
