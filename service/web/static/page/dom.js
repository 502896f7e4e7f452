// Finding and refilling elements.

export const $ = (id) => document.getElementById(id);

/** Replace the children of `parent`, and give the focus back to the one with the same `data-key`. */
export function refill(parent, children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (focused !== undefined) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}
