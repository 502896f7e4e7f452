// Finding and refilling elements.

export const $ = (id) => document.getElementById(id);

/** Set an element's text, and leave it alone where that is its text: what is set again is read aloud again. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const drawn = new WeakMap();

/** Refill `parent` with `children(shown)` where `shown` is other than before. */
export function redraw(parent, shown, children) {
  const written = JSON.stringify(shown);
  if (drawn.get(parent) === written) return;
  drawn.set(parent, written);
  refill(parent, children(shown));
}

/** Replace the children of `parent`, and give the focus back to the one with the same `data-key`. */
export function refill(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (focused !== undefined) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}
