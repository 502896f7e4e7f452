// Files and texts that leave the page.

import { make } from "../shared/elements.js";

/** Give the browser a file to save; `content` is a Blob, or what one is made of. */
export function save(content, name, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

/** Copy `text`, or select it in `place`, where it stands, if the browser forbids: without HTTPS there is no clipboard. */
export async function copy(text, place, said) {
  try {
    await navigator.clipboard.writeText(text);
    said.textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(place);
    said.textContent = "Selected: copy it with your keyboard.";
  }
}

/** A picture's name without its ending, fit for a file's name. */
export const stem = (name) => name.replace(/^.*[/\\]/, "").replace(/\.\w+$/, "") || "picture";
