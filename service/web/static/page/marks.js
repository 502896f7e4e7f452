// What is marked on the pictures that are evaluated: a file of COCO, or masks.

import { plural } from "../shared/numbers.js";

const isMask = ({ name }) => /\.mask\.png$/i.test(name);
const isCoco = ({ name }) => /\.json$/i.test(name);

let annotations = null;
let masks = [];
let alongside = false; // they came with pictures that are not shown yet

/** Take a file of COCO, or masks in its place. */
export function takeAnnotations(file) {
  [annotations, masks] = [file, []];
}
/** Masks as they came in, with the folders that they lay in: pictures of one name are told apart by theirs. */
export function takeMasks(incoming) {
  [annotations, masks] = [null, incoming];
}
export const forget = () => takeMasks([]);

/** Take what is marked from what came in; returns the rest. */
export function takeFrom(incoming) {
  const coco = incoming.findLast(({ file }) => isCoco(file));
  const found = incoming.filter(({ file }) => isMask(file));
  if (coco) takeAnnotations(coco.file);
  else if (found.length) takeMasks(found);
  alongside = Boolean(coco) || found.length > 0;
  return incoming.filter(({ file }) => !isCoco(file) && !isMask(file));
}

/** Other pictures are in the place of `before`: masks of none of them go, a file of COCO may be about them. */
export function keepThoseOf(pictures, before) {
  const names = new Set(pictures.map(({ path }) => bare(path)));
  if (before.length && !alongside) masks = masks.filter(({ path }) => names.has(bare(path)));
  alongside = false;
}

const bare = (path) => path.split("/").pop().replace(/(\.mask)?\.[^.]+$/i, "");

export const words = () => annotations?.name ?? (masks.length ? plural(masks.length, "mask") : "");

export function appendTo(form) {
  if (annotations) form.append("annotations", annotations, annotations.name);
  for (const { file, path } of masks) form.append("mask", file, path);
}
