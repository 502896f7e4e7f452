// Which colormaps go with a map: one with a sign needs colours with a middle.

/** Those of `colormaps` that show a map with or without a sign. */
export const fitting = (colormaps, signed) => colormaps.filter(({ kind }) => kind === "diverging" || !signed);

/** The one to take where none is named: the server's default, or the first with a middle, as the server does. */
export function usual({ colormaps, standard }, signed) {
  return signed ? fitting(colormaps, true)[0] : colormaps.find(({ name }) => name === standard);
}
