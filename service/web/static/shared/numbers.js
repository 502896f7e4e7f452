// How numbers are written, and kept within bounds.

export const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** A share as a percentage with one decimal. */
export const percent = (share) => (share > 0 && share < 0.001 ? "<0.1%" : `${(share * 100).toFixed(1)}%`);

/** A share as a whole percentage. */
export const wholePercent = (share) => `${Math.round(share * 100)}%`;

/** Three digits, without a row of zeros before them. */
export function threeDigits(value) {
  const tiny = value !== 0 && Math.abs(value) < 0.0001;
  return withMinus(tiny ? value.toExponential(2) : String(Number(value.toPrecision(3))));
}

/** Two decimals. */
export const twoDecimals = (value) => withMinus(value.toFixed(2).replace(/^-0\.00$/, "0.00"));

const withMinus = (text) => text.replaceAll("-", "−");

/** A count with its noun. */
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
