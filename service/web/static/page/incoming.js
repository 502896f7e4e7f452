// How pictures come in: chosen, dropped, pasted, as a folder, or as a sample.

import { make } from "../shared/elements.js";
import { $ } from "./dom.js";

const isPicture = ({ type, name }) => type.startsWith("image/") || /\.(tiff?|avif|heic|heif|hif)$/i.test(name);

/** Call `take(files, {folder})` whenever pictures come in; each file has its folder in `path`. */
export function receive(take) {
  for (const id of ["file", "folder"]) {
    $(id).addEventListener("change", () => {
      take([...$(id).files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      $(id).value = ""; // so that the same file can be chosen again
    });
  }
  document.addEventListener("paste", (event) => {
    take([...event.clipboardData.files].map((file) => ({ file, path: file.name })));
  });
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, async (event) => {
      event.preventDefault();
      document.body.classList.toggle("dragging", kind === "dragover");
      if (kind === "drop") take(await dropped(event.dataTransfer));
    });
  }
}

/** Everything that was dropped, folders opened. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  return (await Promise.all(entries.map(opened))).flat();
}

async function opened(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const inside = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) break;
    inside.push(...some);
  }
  return (await Promise.all(inside.map(opened))).flat();
}

/** Split what came in into pictures and the number of other files; a lone file is taken as what it is. */
export function sorted(incoming) {
  if (incoming.length === 1) return { pictures: incoming, others: 0 };
  const pictures = incoming.filter(({ file }) => isPicture(file));
  pictures.sort((one, other) => one.path.localeCompare(other.path, undefined, { numeric: true }));
  return { pictures, others: incoming.length - pictures.length };
}

/** List the samples as buttons; `take(name)` is called for the one that is pressed. Returns their names. */
export async function showSamples(take) {
  const response = await fetch("static/samples.json").catch(() => null);
  const samples = response?.ok ? await response.json() : [];
  for (const { name, title } of samples) {
    const thumbnail = make("img", { src: `static/samples/${encodeURIComponent(name)}`, alt: title, width: 48, height: 48 });
    const button = make("button", { type: "button", title, ariaPressed: "false", onclick: () => take(name) }, thumbnail);
    button.dataset.sample = name;
    $("samples").append(make("li", {}, button));
  }
  return samples.map(({ name }) => name);
}

export function markSample(name) {
  for (const button of $("samples").querySelectorAll("button")) button.ariaPressed = button.dataset.sample === name;
}
