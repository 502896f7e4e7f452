// How sure the model is of a picture, and whether its map holds: the server's scores, in words.

import { twoDecimals } from "../shared/numbers.js";

/** How sure it is, by the whole of what it predicts. */
export const sureness = ({ entropy, margin }) =>
  [
    entropy !== null && `Entropy ${twoDecimals(entropy)}: 0 is sure, 1 says that all classes are equally likely.`,
    margin !== null && `Margin ${twoDecimals(margin)}: what the first class is ahead of the second.`,
  ].filter(Boolean).join(" ");

/** Whether the map follows what it shows when that is turned round. */
export const stability = ({ flip_stability: alike }) =>
  alike === null
    ? "Nothing can be said: a map without differences is like no other."
    : `Flip stability ${twoDecimals(alike)}: near 1, the map follows what it shows; near 0 or below, it does not.`;
