// What a map shows, in words.

import { percent } from "./numbers.js";

const WHY_EMPTY = {
  no_positive_evidence: "nothing in this layer speaks for the class",
  zero_gradient: "the class does not depend on this layer at all",
  constant: "every place has the same value",
};

/** A class with its probability. */
export const className = ({ label, probability }) => `“${label}” (${percent(probability)})`;

/** What is explained: a class, or a class rather than another. */
export const goal = ({ target, against }) => className(target) + (against ? ` rather than ${className(against)}` : "");

/** Why an explanation shows nothing. */
export const whyEmpty = ({ reason }) => WHY_EMPTY[reason] ?? "it shows nothing";

/** What an explanation shows, in a sentence or two; `advice` says, by reason, what to do about an empty map. */
export function caption(explanation, { model, method, advice = {} }) {
  const { layer, signed, empty, reason, note } = explanation;
  const how = method ? `at ${layer}, by ${method}` : `at ${layer}`;
  const sides = signed ? "for (red) and against (blue)" : "for";
  const said = empty
    ? [`The map for ${goal(explanation)} ${how} is empty. ${sentence(whyEmpty(explanation))}`, advice[reason]]
    : [`Where ${model} finds evidence ${sides} ${goal(explanation)}, ${how}.`, note];
  return said.filter(Boolean).join(" ");
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;

/** A map for those who do not see it. */
export function description({ explanation, hasUnseen }) {
  const { layer, peak, empty } = explanation;
  const strongest = peak && !empty ? `, strongest at (${Math.floor(peak.x)}, ${Math.floor(peak.y)})` : "";
  const unseen = hasUnseen ? ". Part of the picture was not seen" : "";
  return `Heatmap for ${goal(explanation)} at layer ${layer}${strongest}${unseen}`;
}
