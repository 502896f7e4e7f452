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

const LONGEST = 60; // characters of a part: systems take 255 bytes of a name, and letters have up to three or four

/** The name of a file about a picture, and about other things: letters and digits of any script. */
export function fileName(picture, about, ending) {
  const stem = picture.replace(/^.*[/\\]/, "").replace(/\.\w+$/, "") || "picture";
  const parts = [stem, ...about].map((part) => [...part].slice(0, LONGEST).join(""));
  return `${parts.join(" ").normalize().replaceAll(/[^\p{L}\p{M}\p{N}_.+-]+/gu, "_")}.${ending}`;
}
