// The pictures of this visit, by id: samples come from the server, the others stay in the browser's memory.

import { download } from "../shared/api.js";

const kept = new Map();
const visit = Date.now().toString(36); // a reload forgets the pictures, but not the history that names them

/** Keep a file; `path` says in which folder it lay. */
export function keep(file, path = file.webkitRelativePath || file.name) {
  const picture = { id: `file:${visit}-${kept.size}`, file, path, sample: "" };
  kept.set(picture.id, picture);
  return picture;
}

/** The picture with this id, or null where it was one's own in an earlier visit. */
export async function find(id) {
  if (!kept.has(id) && id.startsWith("sample:")) kept.set(id, await fetched(id));
  return kept.get(id) ?? null;
}

async function fetched(id) {
  const sample = id.slice("sample:".length);
  const missing = () => `There is no sample ${sample}. Take one of those above.`;
  const data = await download(`static/samples/${encodeURIComponent(sample)}`, { missing });
  return { id, file: new File([data], sample, { type: data.type }), path: sample, sample };
}

/** Whether browsers show this file: all that the server reads but TIFF and HEIC. */
export async function displayable(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 12).arrayBuffer()));
  return !/^(II[*+]\0|MM\0[*+]|....ftyp(?!avi[fs]))/s.test(head);
}
