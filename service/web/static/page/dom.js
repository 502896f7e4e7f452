// Making and finding elements, and the few ways in which the page writes numbers.

export const $ = (id) => document.getElementById(id);

/** An element with properties set and children appended; attributes go under `attributes`. */
export function make(tag, { attributes = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

export const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

export const source = ({ media_type, data }) => `data:${media_type};base64,${data}`;

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

/** The bytes of a base64 text. */
export const bytes = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

/** Replace the children of `parent`, and give the focus back to the one with the same `data-key`. */
export function refill(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (focused !== undefined) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}
