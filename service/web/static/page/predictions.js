// The classes of the picture on screen: which is explained, and rather than which other.

import { make } from "../shared/elements.js";
import { percent } from "../shared/numbers.js";
import { modelNamed, searchClasses } from "./catalogue.js";
import { classGroups, classNamed, isSentence } from "./choices.js";
import { $, refill } from "./dom.js";
import { Picker } from "./picker.js";
import { change, state } from "./state.js";

let listed = []; // as the server sent them
let shown = null; // the explanation on screen

/** Connect the two class pickers; called once. */
export function control() {
  const groups = async (query) => classGroups(modelNamed(state.model), await searchClasses(state, query), listed, query);
  new Picker($("target"), { title: "Class to explain", groups, chosen: () => [explained()], choose: explain });
  new Picker($("against"), { title: "Class to compare with", groups, chosen: () => [state.against], choose: contrast });
  $("no-against").addEventListener("click", () => contrast(""));
}

const named = (one) => classNamed(modelNamed(state.model), one);
const explained = () => (shown ? named(shown.target) : "");

function explain(asked) {
  const target = listed.length && asked === named(listed[0]) && !isSentence(asked) ? "" : asked; // the first is what is predicted
  change({ target, ...(asked === state.against && { against: "" }) });
}

function contrast(asked) {
  const same = asked === state.against; // pressed again: no more
  if (asked === explained()) return;
  change({ against: same ? "" : asked });
}

/** Show the predictions of an answer and what of them was explained. */
export function show(predictions, explanation) {
  [listed, shown] = [predictions, explanation];
  const { target, against } = explanation;
  $("target").textContent = target.label;
  $("against").textContent = against?.label ?? "any other";
  $("no-against").hidden = !against;
  const known = new Set(predictions.map(({ index }) => index));
  const others = [target, against].filter((one) => one && !known.has(one.index));
  refill($("predictions"), [...predictions, ...others].map((one) => row(one, target, against)));
}

function row(one, target, against) {
  const { index, label, probability } = one;
  const isExplained = index === target.index;
  const button = make("button", {
    type: "button", className: "class", ariaPressed: String(isExplained), onclick: () => explain(named(one)),
  }, make("span", {}, label), make("span", {}, percent(probability)));
  button.style.setProperty("--share", `${probability * 100}%`);
  button.dataset.key = `class-${index}`;
  const rather = make("button", {
    type: "button", className: "versus", ariaPressed: String(index === against?.index), disabled: isExplained,
    title: `Why ${target.label} rather than ${label}?`, onclick: () => contrast(named(one)),
  }, "vs", make("span", { className: "unseen" }, ` ${label}`));
  rather.dataset.key = `versus-${index}`;
  return make("li", {}, button, rather);
}
