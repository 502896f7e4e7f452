// How sure the model is of a picture, and whether its map is true: what the server measured, in words.

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

const SAME = { // of the gates that a map does not pass
  class_differs: "The map of another class is all but the same.",
  random_head_differs: "With the weights of the model’s last layer in a random order, it is all but the same.",
};

const MISSING = { // why a gate was not tried; where there is nothing to hide, the sentence says it
  no_other_class: "There is no other class whose map it could be compared with.",
  head_unknown: "It was not tried with a random last layer: which one that is, is not known, or the map is of a layer behind it.",
  whole_network: "It was not tried with a random last layer: the method is of the whole network.",
  many_passes: "The map of another class was not made: that would take too many passes.",
};

/** Whether hiding what a map marks matters, in the server's sentence, what else speaks against it, and what was not tried. */
export const proof = ({ text, gates }) => {
  const same = Object.entries(SAME).map(([gate, words]) => gates[gate] === false && words);
  const missing = [...new Set(Object.values(gates.missing ?? {}))].map((reason) => MISSING[reason]);
  return [text, ...same, ...missing].filter(Boolean).join(" ");
};
