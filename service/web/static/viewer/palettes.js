// The colours of a map: 256 × red, green, blue.

import { ask } from "../shared/api.js";
import { fitting, usual } from "../shared/colormaps.js";
import { clamp } from "../shared/numbers.js";
import { Problem } from "../shared/problems.js";

/** Colours for whoever sets no palette: black, red, yellow, white; of a signed map blue, white, red. */
export function plainPalette(signed) {
  const ramp = (value) => Math.round(255 * clamp(value, 0, 1));
  const hot = (share) => [ramp(3 * share), ramp(3 * share - 1), ramp(3 * share - 2)];
  const coldOrHot = (share) => [ramp(2 * share), ramp(1 - Math.abs(2 * share - 1)), ramp(2 - 2 * share)];
  return Uint8ClampedArray.from(Array.from({ length: 256 }, (_, level) => (signed ? coldOrHot : hot)(level / 255)).flat());
}

const listed = new Map(); // by server: asked for once by all viewers of a page

/** The `table` of a server's colormap: of the one that is named, or of the usual one. */
export async function paletteOf(server, name, signed, asking) {
  if (!listed.has(server)) listed.set(server, await ask(`${server}api/v1/colormaps`, asking));
  const { colormaps, default: standard } = listed.get(server);
  if (name === null) return usual({ colormaps, standard }, signed).table;
  const found = fitting(colormaps, signed);
  const row = found.find((each) => each.name === name);
  if (row) return row.table;
  const names = found.map((each) => each.name).join(", ");
  throw new Problem(`“${name}” is no colormap for this; choose one of: ${names}.`, { code: "unknown_colormap" });
}
