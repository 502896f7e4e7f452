// What is marked on the pictures that are evaluated: a file of COCO, or masks.

import { plural } from "../shared/numbers.js";

const isMask = ({ name }) => /\.mask\.png$/i.test(name);
const isCoco = ({ name }) => /\.json$/i.test(name);

let annotations = null;
let masks = [];

/** Take a file of COCO, or masks in its place. */
export function takeAnnotations(file) {
  [annotations, masks] = [file, []];
}
export function takeMasks(files) {
  [annotations, masks] = [null, files];
}
export const forget = () => takeMasks([]);

/** Take what is marked from what came in; returns the rest. */
export function takeFrom(incoming) {
  const coco = incoming.findLast(({ file }) => isCoco(file));
  const found = incoming.filter(({ file }) => isMask(file));
  if (coco) takeAnnotations(coco.file);
  else if (found.length) takeMasks(found.map(({ file }) => file));
  return incoming.filter(({ file }) => !isCoco(file) && !isMask(file));
}

export const words = () => annotations?.name ?? (masks.length ? plural(masks.length, "mask") : "");

export function appendTo(form) {
  if (annotations) form.append("annotations", annotations, annotations.name);
  for (const mask of masks) form.append("mask", mask, mask.name);
}
