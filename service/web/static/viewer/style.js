// The look of the viewer, in its shadow tree.

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

/** A constructed sheet: unlike a <style>, it needs no exception in a content security policy. */
export const sheet = new CSSStyleSheet();
sheet.replaceSync(STYLE);
